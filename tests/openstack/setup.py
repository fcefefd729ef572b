"""Sets up the OpenStack that tests run against; called by run.sh, see README.md beside this file.

`config ROOT`: writes the configuration of all services. `neutron-db`: makes Neutron's tables; its migrations do not know
SQLite. `databases`: lets readers and writers of them work side by side. `accounts`: users, projects and endpoints. `cloud`: flavors, networks, a router, and the host in its cell.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

PASSWORD = "open-SECRET-sesame"
KEYSTONE = "http://127.0.0.1:5000/v3"
NEUTRON = "http://127.0.0.1:9696/v2.0"
NOVA = "http://127.0.0.1:8774/v2.1"
PLACEMENT = "http://127.0.0.1:8778"
SERVICES = [
    ("nova", "compute", "http://127.0.0.1:8774/v2.1"),
    ("glance", "image", "http://127.0.0.1:9292"),
    ("neutron", "network", "http://127.0.0.1:9696"),
    ("placement", "placement", PLACEMENT),
]
RABBIT = "rabbit://guest:guest@127.0.0.1:5672/"


def database(name):
    # Others may be writing.
    return f"connection = sqlite:////var/lib/os/{name}.db?timeout=60"


def auth(user, more=""):
    return f"""auth_url = {KEYSTONE}
auth_type = password
username = {user}
password = service
project_name = service
user_domain_id = default
project_domain_id = default
region_name = RegionOne
{more}"""


def middleware(user):
    return "[keystone_authtoken]\nwww_authenticate_uri = http://127.0.0.1:5000\n" + auth(user)


def config(root):
    files = {
        "keystone/keystone.conf": f"""[database]
{database("keystone")}
[token]
provider = fernet
[fernet_tokens]
key_repository = /var/lib/os/fernet
[fernet_receipts]
key_repository = /var/lib/os/fernet
[credential]
key_repository = /var/lib/os/credential
""",
        "glance/glance-api.conf": f"""[DEFAULT]
bind_host = 127.0.0.1
workers = 1
[database]
{database("glance")}
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = /var/lib/os/images
[paste_deploy]
flavor = keystone
config_file = /usr/share/glance-common/glance-api-paste.ini
{middleware("glance")}""",
        "placement/placement.conf": f"""[placement_database]
{database("placement")}
[api]
auth_strategy = keystone
{middleware("placement")}""",
        "nova/nova.conf": f"""[DEFAULT]
host = box
my_ip = 127.0.0.1
transport_url = {RABBIT}
compute_driver = fake.FakeDriver
state_path = /var/lib/os/nova
enabled_apis = osapi_compute
osapi_compute_listen = 127.0.0.1
osapi_compute_workers = 1
rpc_response_timeout = 180
[api_database]
{database("nova_api")}
[database]
{database("nova")}
[api]
auth_strategy = keystone
[wsgi]
api_paste_config = /usr/share/nova-common/api-paste.ini
[conductor]
workers = 1
[scheduler]
workers = 1
[vnc]
enabled = false
[oslo_concurrency]
lock_path = /var/lib/os/locks
[glance]
api_servers = http://127.0.0.1:9292
[placement]
{auth("placement")}
[neutron]
{auth("neutron")}
{middleware("nova")}""",
        "neutron/neutron.conf": f"""[DEFAULT]
bind_host = 127.0.0.1
core_plugin = ml2
service_plugins = router
transport_url = {RABBIT}
api_paste_config = /usr/share/neutron-common/api-paste.ini
state_path = /var/lib/os/neutron
api_workers = 1
rpc_workers = 1
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
agent_down_time = 300000
[oslo_concurrency]
lock_path = /var/lib/os/locks
[database]
{database("neutron")}
[nova]
{auth("nova")}
{middleware("neutron")}""",
        "neutron/ml2.ini": """[ml2]
type_drivers = local
tenant_network_types = local
mechanism_drivers = openvswitch
extension_drivers = port_security
""",
    }
    for name, text in files.items():
        with open(os.path.join(root, "etc", name), "w") as file:
            file.write(text)


def neutron_db():
    import sqlalchemy
    from neutron.db.migration.models import head

    engine = sqlalchemy.create_engine("sqlite:////var/lib/os/neutron.db")
    head.get_metadata().create_all(engine)


def databases():
    """Readers must not keep writers waiting: Keystone is both in one request."""
    import glob
    import sqlite3

    for path in glob.glob("/var/lib/os/*.db"):
        with sqlite3.connect(path) as database:
            database.execute("pragma journal_mode = wal")


def urlopen(request):
    """A service that was just started may drop its first connections."""
    for left in reversed(range(60)):
        try:
            return urllib.request.urlopen(request, timeout=300)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if not left:
                raise
            time.sleep(2)


class Cloud:
    """Calls as somebody with a token."""

    def __init__(self, user, password, project):
        member = {"name": user, "domain": {"id": "default"}, "password": password}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": member}},
                "scope": {"project": {"name": project, "domain": {"id": "default"}}},
            }
        }
        request = urllib.request.Request(
            f"{KEYSTONE}/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request) as answer:
            self.token = answer.headers["X-Subject-Token"]
            self.project = json.load(answer)["token"]["project"]["id"]

    def call(self, method, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urlopen(request) as answer:
                text = answer.read()
        except urllib.error.HTTPError as e:
            sys.exit(f"{method} {url} {body}: {e.code} {e.read().decode()}")
        return json.loads(text) if text else None


def accounts():
    admin = Cloud("admin", "admin", "admin")
    roles = {r["name"]: r["id"] for r in admin.call("GET", f"{KEYSTONE}/roles")["roles"]}

    def project(name):
        return admin.call("POST", f"{KEYSTONE}/projects", {"project": {"name": name, "domain_id": "default"}})["project"]["id"]

    def user(name, password, project, role):
        body = {"user": {"name": name, "password": password, "domain_id": "default"}}
        made = admin.call("POST", f"{KEYSTONE}/users", body)["user"]["id"]
        admin.call("PUT", f"{KEYSTONE}/projects/{project}/users/{made}/roles/{roles[role]}")

    service, demo = project("service"), project("demo")
    user("robot", PASSWORD, demo, "member")
    for name, kind, url in SERVICES:
        user(name, "service", service, "admin")
        made = admin.call("POST", f"{KEYSTONE}/services", {"service": {"name": name, "type": kind}})["service"]["id"]
        for interface in ("public", "internal", "admin"):
            body = {"service_id": made, "interface": interface, "region_id": "RegionOne", "url": url}
            admin.call("POST", f"{KEYSTONE}/endpoints", {"endpoint": body})


def cloud():
    import sqlite3

    admin, robot = Cloud("admin", "admin", "admin"), Cloud("robot", PASSWORD, "demo")
    for number, name in (("1", "m1.tiny"), ("2", "m1.small")):
        body = {"flavor": {"id": number, "name": name, "ram": 512, "vcpus": 1, "disk": 1}}
        admin.call("POST", f"{NOVA}/flavors", body)

    def make(who, kind, fields):
        return who.call("POST", f"{NEUTRON}/{kind}s", {kind: fields})[kind]["id"]

    public = make(admin, "network", {"name": "public", "router:external": True})
    make(admin, "subnet", {"network_id": public, "ip_version": 4, "cidr": "172.24.4.0/24", "enable_dhcp": False})
    private = make(robot, "network", {"name": "private"})
    subnet = make(robot, "subnet", {"network_id": private, "ip_version": 4, "cidr": "10.0.0.0/24", "enable_dhcp": False})
    router = make(robot, "router", {"name": "router", "external_gateway_info": {"network_id": public}})
    robot.call("PUT", f"{NEUTRON}/routers/{router}/add_router_interface", {"subnet_id": subnet})
    # Ports are bound only where an agent answers for the host: this row is its word, good for ever.
    with sqlite3.connect("/var/lib/os/neutron.db", timeout=60) as database:
        settings = json.dumps({"bridge_mappings": {}, "tunnel_types": [], "datapath_type": "system"})
        now, ever = "2026-01-01 00:00:00.000000", "2999-01-01 00:00:00.000000"
        database.execute(
            "insert into agents (id, agent_type, binary, topic, host, admin_state_up, created_at, started_at,"
            " heartbeat_timestamp, configurations, load) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                "00000000-0000-4000-8000-000000000000", "Open vSwitch agent", "neutron-openvswitch-agent", "N/A", "box",
                1, now, now, ever, settings, 0,
            ),
        )
    for _ in range(600):
        services = admin.call("GET", f"{NOVA}/os-services")["services"]
        if any(s["binary"] == "nova-compute" and s["state"] == "up" for s in services):
            break
        time.sleep(0.5)
    else:
        sys.exit("nova-compute does not come up")
    for _ in range(60):
        subprocess.run(["nova-manage", "cell_v2", "discover_hosts"], check=True)
        known = admin.call("GET", f"{NOVA}/os-hypervisors")["hypervisors"]
        if known:
            break
        time.sleep(0.5)
    else:
        sys.exit("nova-compute has no hypervisor")
    # What it has to give is told to Placement at its start, or with the next look at it, a minute later.
    for _ in range(600):
        for provider in admin.call("GET", f"{PLACEMENT}/resource_providers")["resource_providers"]:
            if admin.call("GET", f"{PLACEMENT}/resource_providers/{provider['uuid']}/inventories")["inventories"]:
                return
        time.sleep(0.5)
    sys.exit("nova-compute has nothing to give")


{"config": lambda: config(sys.argv[2]), "neutron-db": neutron_db, "databases": databases, "accounts": accounts, "cloud": cloud}[sys.argv[1]]()
