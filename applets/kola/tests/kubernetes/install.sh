#!/bin/bash
# Makes a Kubernetes master or worker of a Container Linux machine. kola puts these in front:
#   ROLE (master or worker), TAG, ETCD, MASTER, and what both sides have to agree on.
set -euo pipefail

source /etc/environment
ADVERTISE_IP=${ADVERTISE_IP:-$COREOS_PRIVATE_IPV4}
IMAGE=$HYPERKUBE:$TAG
CONTROLLER=https://$MASTER:443
MANIFESTS=/etc/kubernetes/manifests
TLS=/etc/kubernetes/ssl

# Writes stdin to a file, unless it is there.
new() {
    if [ -e "$1" ]; then
        cat >/dev/null
    else
        mkdir -p "$(dirname "$1")"
        cat >"$1"
    fi
}

# The volumes of certificates that pods on the host's network need.
volumes() {
    cat <<END
  volumes:
    - {name: tls, hostPath: {path: $TLS}}
    - {name: authorities, hostPath: {path: /usr/share/ca-certificates}}
    - {name: worker-config, hostPath: {path: /etc/kubernetes/worker-kubeconfig.yaml}}
END
}

# A pod of the hyperkube image on the host's network: name, then its container's further lines on stdin.
pod() {
    {
        cat <<END
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: kube-system}
spec:
  hostNetwork: true
  containers:
    - name: $1
      image: $IMAGE
END
        cat
        volumes
    } | new "$MANIFESTS/$1.yaml"
}

kubelet_options() {
    if [ "$ROLE" = master ]; then
        echo "--api-servers=http://127.0.0.1:8080 --register-schedulable=false"
    else
        echo "--api-servers=$CONTROLLER --register-node=true --kubeconfig=/etc/kubernetes/worker-kubeconfig.yaml" \
            "--tls-cert-file=$TLS/worker.pem --tls-private-key-file=$TLS/worker-key.pem"
    fi
}

mount_of() {
    echo "--volume $1,kind=host,source=$2 --mount volume=$1,target=$3"
}

new /etc/systemd/system/kubelet.service <<END
[Service]
Environment=KUBELET_VERSION=$TAG
Environment=KUBELET_ACI=$HYPERKUBE
Environment="RKT_OPTS=$(mount_of dns /etc/resolv.conf /etc/resolv.conf) \\
  $(mount_of rkt /opt/bin/host-rkt /usr/bin/rkt) \\
  $(mount_of var-lib-rkt /var/lib/rkt /var/lib/rkt) \\
  $(mount_of stage /tmp /tmp)"
ExecStartPre=/usr/bin/mkdir -p $MANIFESTS
ExecStart=/usr/lib/coreos/kubelet-wrapper $(kubelet_options) \\
  --network-plugin-dir=/etc/kubernetes/cni/net.d --network-plugin=cni \\
  --container-runtime=$RUNTIME --rkt-path=/usr/bin/rkt --rkt-stage1-image=coreos.com/rkt/stage1-coreos \\
  --allow-privileged=true --config=$MANIFESTS --hostname-override=$ADVERTISE_IP \\
  --cluster_dns=$DNS_SERVICE_IP --cluster_domain=cluster.local
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
END

new /opt/bin/host-rkt <<'END'
#!/bin/sh
# rkt of the host, for who sees only a container's files.
exec nsenter -m -u -i -n -p -t 1 -- /usr/bin/rkt "$@"
END
chmod 0755 /opt/bin/host-rkt

new /etc/flannel/options.env <<END
FLANNELD_IFACE=$ADVERTISE_IP
FLANNELD_ETCD_ENDPOINTS=$ETCD
END
new /etc/systemd/system/flanneld.service.d/40-options.conf <<'END'
[Service]
ExecStartPre=/usr/bin/mkdir -p /run/flannel
ExecStartPre=/usr/bin/ln -sf /etc/flannel/options.env /run/flannel/options.env
END
new /etc/systemd/system/docker.service.d/40-flannel.conf <<'END'
[Unit]
Requires=flanneld.service
After=flanneld.service

[Service]
EnvironmentFile=/etc/kubernetes/cni/docker_opts_cni.env
END
new /etc/kubernetes/cni/docker_opts_cni.env <<'END'
DOCKER_OPT_BIP=""
DOCKER_OPT_IPMASQ=""
END
new /etc/kubernetes/cni/net.d/10-flannel.conf <<'END'
{"name": "podnet", "type": "flannel", "delegate": {"isDefaultGateway": true}}
END

if [ "$ROLE" = worker ]; then
    new /etc/kubernetes/worker-kubeconfig.yaml <<END
apiVersion: v1
kind: Config
clusters:
  - {name: local, cluster: {certificate-authority: $TLS/ca.pem}}
users:
  - {name: kubelet, user: {client-certificate: $TLS/worker.pem, client-key: $TLS/worker-key.pem}}
contexts:
  - {name: kubelet-context, context: {cluster: local, user: kubelet}}
current-context: kubelet-context
END
    pod kube-proxy <<END
      command: [/hyperkube, proxy, --master=$CONTROLLER, --kubeconfig=/etc/kubernetes/worker-kubeconfig.yaml]
      securityContext: {privileged: true}
      volumeMounts:
        - {name: authorities, mountPath: /etc/ssl/certs}
        - {name: worker-config, mountPath: /etc/kubernetes/worker-kubeconfig.yaml, readOnly: true}
        - {name: tls, mountPath: $TLS, readOnly: true}
END
else
    touch /etc/kubernetes/worker-kubeconfig.yaml
    pod kube-proxy <<END
      command: [/hyperkube, proxy, --master=http://127.0.0.1:8080]
      securityContext: {privileged: true}
      volumeMounts:
        - {name: authorities, mountPath: /etc/ssl/certs, readOnly: true}
END
    pod kube-apiserver <<END
      command:
        - /hyperkube
        - apiserver
        - --bind-address=0.0.0.0
        - --etcd-servers=$ETCD
        - --allow-privileged=true
        - --service-cluster-ip-range=$SERVICE_RANGE
        - --secure-port=443
        - --advertise-address=$ADVERTISE_IP
        - --admission-control=NamespaceLifecycle,LimitRanger,ServiceAccount,ResourceQuota
        - --tls-cert-file=$TLS/apiserver.pem
        - --tls-private-key-file=$TLS/apiserver-key.pem
        - --client-ca-file=$TLS/ca.pem
        - --service-account-key-file=$TLS/apiserver-key.pem
        - --runtime-config=extensions/v1beta1/networkpolicies=true
      livenessProbe:
        httpGet: {host: 127.0.0.1, port: 8080, path: /healthz}
        initialDelaySeconds: 15
        timeoutSeconds: 15
      ports:
        - {containerPort: 443, hostPort: 443, name: https}
        - {containerPort: 8080, hostPort: 8080, name: local}
      volumeMounts:
        - {name: tls, mountPath: $TLS, readOnly: true}
        - {name: authorities, mountPath: /etc/ssl/certs, readOnly: true}
END
    pod kube-controller-manager <<END
      command:
        - /hyperkube
        - controller-manager
        - --master=http://127.0.0.1:8080
        - --leader-elect=true
        - --service-account-private-key-file=$TLS/apiserver-key.pem
        - --root-ca-file=$TLS/ca.pem
      resources: {requests: {cpu: 200m}}
      livenessProbe:
        httpGet: {host: 127.0.0.1, port: 10252, path: /healthz}
        initialDelaySeconds: 15
        timeoutSeconds: 15
      volumeMounts:
        - {name: tls, mountPath: $TLS, readOnly: true}
        - {name: authorities, mountPath: /etc/ssl/certs, readOnly: true}
END
    pod kube-scheduler <<END
      command: [/hyperkube, scheduler, --master=http://127.0.0.1:8080, --leader-elect=true]
      resources: {requests: {cpu: 100m}}
      livenessProbe:
        httpGet: {host: 127.0.0.1, port: 10251, path: /healthz}
        initialDelaySeconds: 15
        timeoutSeconds: 15
END

    # The network, before any flannel asks for it.
    until curl -sf "$ETCD/v2/machines" >/dev/null; do sleep 5; done
    curl -s -X PUT -d "value={\"Network\":\"$POD_NETWORK\",\"Backend\":{\"Type\":\"vxlan\"}}" \
        "$ETCD/v2/keys/coreos.com/network/config?prevExist=false" >/dev/null
fi

systemctl stop update-engine
systemctl mask update-engine
systemctl daemon-reload
for unit in flanneld kubelet; do
    systemctl enable "$unit"
    systemctl start "$unit"
done
[ "$ROLE" = master ] || exit 0

until curl -sf http://127.0.0.1:8080/version >/dev/null; do sleep 5; done

# Gives the API an object: group and kind in the URL, the object on stdin.
post() {
    curl -sS -H 'Content-Type: application/yaml' --data-binary @- -X POST \
        "http://127.0.0.1:8080/$1/namespaces/kube-system/$2" >/dev/null
}

# A service in front of the pods of an add-on: name, further lines of its spec on stdin.
service() {
    { cat <<END; cat; } | post api/v1 services
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: kube-system, labels: {k8s-app: $1}}
spec:
  selector: {k8s-app: $1}
END
}

post api/v1 replicationcontrollers <<END
apiVersion: v1
kind: ReplicationController
metadata: {name: kube-dns-v15, namespace: kube-system, labels: {k8s-app: kube-dns, version: v15}}
spec:
  replicas: 1
  selector: {k8s-app: kube-dns, version: v15}
  template:
    metadata: {labels: {k8s-app: kube-dns, version: v15}}
    spec:
      dnsPolicy: Default
      containers:
        - name: kubedns
          image: gcr.io/google_containers/kubedns-amd64:1.3
          args: [--domain=cluster.local., --dns-port=10053]
          ports:
            - {containerPort: 10053, name: dns-local, protocol: UDP}
            - {containerPort: 10053, name: dns-tcp-local, protocol: TCP}
          livenessProbe:
            httpGet: {path: /healthz, port: 8080}
            initialDelaySeconds: 60
            timeoutSeconds: 5
          readinessProbe:
            httpGet: {path: /readiness, port: 8081}
            initialDelaySeconds: 30
            timeoutSeconds: 5
        - name: dnsmasq
          image: gcr.io/google_containers/kube-dnsmasq-amd64:1.3
          args: [--cache-size=1000, --no-resolv, "--server=127.0.0.1#10053"]
          ports:
            - {containerPort: 53, name: dns, protocol: UDP}
            - {containerPort: 53, name: dns-tcp, protocol: TCP}
        - name: healthz
          image: gcr.io/google_containers/exechealthz-amd64:1.0
          args:
            - -cmd=nslookup kubernetes.default.svc.cluster.local 127.0.0.1 >/dev/null
            - -port=8080
          ports:
            - {containerPort: 8080, protocol: TCP}
END
service kube-dns <<END
  clusterIP: $DNS_SERVICE_IP
  ports:
    - {name: dns, port: 53, protocol: UDP}
    - {name: dns-tcp, port: 53, protocol: TCP}
END

post apis/extensions/v1beta1 deployments <<END
apiVersion: extensions/v1beta1
kind: Deployment
metadata: {name: heapster-v1.1.0, namespace: kube-system, labels: {k8s-app: heapster, version: v1.1.0}}
spec:
  replicas: 1
  selector: {matchLabels: {k8s-app: heapster, version: v1.1.0}}
  template:
    metadata: {labels: {k8s-app: heapster, version: v1.1.0}}
    spec:
      containers:
        - name: heapster
          image: gcr.io/google_containers/heapster:v1.1.0
          command: [/heapster, "--source=kubernetes.summary_api:''"]
        - name: heapster-nanny
          image: gcr.io/google_containers/addon-resizer:1.3
          env:
            - {name: MY_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: MY_POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
          command:
            - /pod_nanny
            - --cpu=100m
            - --extra-cpu=0.5m
            - --memory=200Mi
            - --extra-memory=4Mi
            - --deployment=heapster-v1.1.0
            - --container=heapster
            - --poll-period=300000
END
service heapster <<END
  ports:
    - {port: 80, targetPort: 8082}
END

post api/v1 replicationcontrollers <<END
apiVersion: v1
kind: ReplicationController
metadata: {name: kubernetes-dashboard-v1.1.0, namespace: kube-system, labels: {k8s-app: kubernetes-dashboard, version: v1.1.0}}
spec:
  replicas: 1
  selector: {k8s-app: kubernetes-dashboard, version: v1.1.0}
  template:
    metadata: {labels: {k8s-app: kubernetes-dashboard, version: v1.1.0}}
    spec:
      containers:
        - name: kubernetes-dashboard
          image: gcr.io/google_containers/kubernetes-dashboard-amd64:v1.1.0
          ports:
            - {containerPort: 9090}
          livenessProbe:
            httpGet: {path: /, port: 9090}
            initialDelaySeconds: 30
            timeoutSeconds: 30
END
service kubernetes-dashboard <<END
  ports:
    - {port: 80, targetPort: 9090}
END
