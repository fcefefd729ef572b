#!/bin/bash
# kola as a job array on a real Slurm, all of it on this machine: a controller, two nodes, munge. Everything is in a
# temporary folder and gone at the end, whatever happens; the machine's own services are not touched.
# usage: MANTLE=... slurm.sh OUTPUT_DIR
set -euo pipefail
out=$(realpath -m "$1")
mantle=$(realpath "${MANTLE:?names the program}")
repository=$(realpath "$(dirname "$0")/..")
guests=${MANTLE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mantle/guest}
say() { printf 'slurm: %3d s  %s\n' $SECONDS "$*"; }
die() {
	say "$@" >&2
	exit 1
}

((EUID == 0)) || die "this needs root, for containers"
for program in munged slurmctld slurmd sbatch; do
	PATH=$PATH:/usr/sbin command -v $program >/dev/null || die "$program is missing: tests/setup.sh tests/packages-full.txt"
done
PATH=$PATH:/usr/sbin

# Short: sockets are in it.
cluster=$(mktemp -d /tmp/mantle-slurm-XXXXXX)
daemons=()
finish() {
	status=$?
	trap - EXIT INT TERM
	if [[ -e $cluster/slurm.conf ]]; then
		# Tasks first: what is left of them are kola's machines, which it removes.
		scancel --quiet --full --user=root 2>/dev/null || :
		for _ in {1..60}; do
			[[ $(squeue --noheader 2>/dev/null) ]] || break
			sleep 0.5
		done
	fi
	((status == 0)) || tail -n 20 "$cluster"/*.log >&2 || :
	for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || :; done
	wait
	# A daemon of a task outlives its node's.
	for pid in $(cd /proc && grep -lszxF "SLURM_CONF=$cluster/slurm.conf" [0-9]*/environ | cut -d/ -f1); do
		[[ $pid == "$$" ]] || kill -9 "$pid" 2>/dev/null || :
	done
	rm -rf "$cluster"
	exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Ports that nobody listens on now.
ports() {
	python3 - "$1" <<-'END'
		import socket, sys
		taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
		print(*(s.getsockname()[1] for s in taken))
	END
}
read -r port_ctl port_1 port_2 <<<"$(ports 3)"
host=$(hostname)
memory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
chmod 0755 "$cluster"
mkdir -p "$cluster"/{state,spool-one,spool-two}
cat >"$cluster/slurm.conf" <<-END
	ClusterName=mantle
	SlurmctldHost=$host(127.0.0.1)
	SlurmctldPort=$port_ctl
	SlurmUser=root
	SlurmdUser=root
	AuthType=auth/munge
	CredType=cred/munge
	# A task that was requeued begins after the life of its credential; 120 s usually.
	AuthInfo=socket=$cluster/munge.socket,cred_expire=5
	StateSaveLocation=$cluster/state
	SlurmdSpoolDir=$cluster/spool-%n
	SlurmctldPidFile=$cluster/ctld.pid
	SlurmdPidFile=$cluster/%n.pid
	SlurmctldLogFile=$cluster/ctld.log
	SlurmdLogFile=$cluster/%n.log
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	JobAcctGatherType=jobacct_gather/none
	AccountingStorageType=accounting_storage/none
	JobCompType=jobcomp/none
	MpiDefault=none
	SwitchType=switch/none
	MailProg=/bin/true
	SelectType=select/cons_tres
	SelectTypeParameters=CR_CPU
	SchedulerParameters=sched_interval=2,batch_sched_delay=0
	SlurmdParameters=config_overrides
	ReturnToService=2
	KillWait=30
	MinJobAge=3600
	NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=$port_1 CPUs=1 RealMemory=$memory
	NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=$port_2 CPUs=1 RealMemory=$memory
	PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$cluster/slurm.conf

# In the foreground, so that they are this shell's children, and without its terminal.
start() {
	local log=$1
	shift
	setsid "$@" </dev/null >>"$cluster/$log.out.log" 2>&1 &
	daemons+=($!)
}
until_true() { # what, seconds, command
	local what=$1 limit=$((SECONDS + $2))
	shift 2
	until "$@"; do
		((SECONDS < limit)) || die "timed out: $what"
		sleep 0.3
	done
}
dd if=/dev/urandom of="$cluster/munge.key" bs=128 count=1 status=none
chmod 0400 "$cluster/munge.key"
start munge munged --foreground --key-file="$cluster/munge.key" --socket="$cluster/munge.socket" \
	--pid-file="$cluster/munge.pid" --log-file="$cluster/munge.log" --seed-file="$cluster/munge.seed"
until_true "munged" 60 test -S "$cluster/munge.socket"
start ctld slurmctld -D
start one slurmd -D -N one
start two slurmd -D -N two
idle() { [[ $(sinfo --noheader --format=%D --states=idle 2>/dev/null) == 2 ]]; }
until_true "the nodes" 120 idle
say "a cluster of two nodes"

# What a user does: a shared folder, the image, the script.
rm -rf "$out"
mkdir -p "$out"
cd "$out"
export KOLA=$out/kola
ln -s "$mantle" kola
guest=$guests/full
[[ -e $guest/root ]] || guest=$guests/base
options=(-p nspawn -b debian --nspawn-root "$guest/root" --nspawn-ignition "$guest/ignition-root")
names=(cl.filesystem cl.users.shells coreos.auth.verify coreos.ignition.v1.groups coreos.ignition.v2.groups
	coreos.ignition.v2.once coreos.ignition.v2.sethostname cl.ignition.v1.sethostname systemd.sysusers.gshadow)
cat >durations.json <<-'END'
	{"nspawn": {"coreos.ignition.v2.once": 2.4, "coreos.ignition.v2.sethostname": 1.9, "coreos.ignition.v1.groups": 1.4, "cl.filesystem": 1.3}}
END
# The README's command, for fewer tasks and these tests.
ln -s "$repository/deploy" deploy
read -ra readme <<<"$(sed -n 's/^sbatch \(--array=1-8 .*kola.sbatch\) -p .*/\1/p' "$repository/README.md")"
((${#readme[@]} == 2)) || die "the README does not say how: ${readme[*]}"
submit() { sbatch --parsable "${readme[0]/8/3}" "${readme[1]}" "${options[@]}" "${names[@]}"; }
field() { scontrol --oneliner show job "$1" | grep -o " $2=[^ ]*" | cut -d= -f2; }
ended() { # a job or a task
	! field "$1" JobState | grep -qvE '^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$'
}
succeeded() { # an array: its three tasks, and each test once in their reports
	local states twice ran
	states=$(field "$1" JobState | sort | uniq -c | xargs)
	[[ $states == "3 COMPLETED" ]] || { cat kola-"$1"_*.log >&2 && die "the tasks of $1: $states"; }
	ran=$(cat kola-"$1"/part-*/test.tap | sed -n 's/^ok - //p' | sort)
	[[ $ran == "$(printf '%s\n' "${names[@]}" | sort)" ]] || die "not each test has passed once in $1:" "$ran"
	! grep -L 'as the environment says, Slurm (SLURM_ARRAY_TASK_ID=' kola-"$1"_*.log | grep . || die "who told them?"
}
begun() { # a task: it has a machine
	grep -qs '"event":"test-started"' "kola-$1/part-$2/reports/events.ndjson" && [[ -s kola-$1/part-$2/resources.jsonl ]]
}
# The process of kola itself, which stands in the script's place.
process_of() {
	local pid
	for pid in $(cd /proc && grep -lszxF "SLURM_ARRAY_JOB_ID=$1" [0-9]*/environ | cut -d/ -f1); do
		if grep -qszxF "SLURM_ARRAY_TASK_ID=$2" /proc/"$pid"/environ &&
			[[ $(tr '\0' ' ' </proc/"$pid"/cmdline) == *" run --output-dir kola-$1/part-$2 "* ]]; then
			echo "$pid"
			return
		fi
	done
	die "no process of task $2 of $1"
}
# What is on record in the output folder of a task, and is there.
nothing_left() { "$KOLA" cleanup "$1" || die "$1: cannot be cleaned up"; }

# The tasks of an array, put together: the exit status, the three parts, and durations for the next run.
merged() {
	"$KOLA" merge "kola-$1" --output-dir "merged-$1" >"merge-$1.log" 2>&1
}

job=$(submit)
until_true "three tasks on two nodes" 600 ended "$job"
succeeded "$job"
say "job $job: three tasks, ${#names[@]} tests"
merged "$job" || { cat "merge-$job.log" && die "not merged"; }
cp "merged-$job/kola-times.json" durations.json

# Requeued while a test runs: Slurm tells the task to end, and runs it again.
export DURATIONS=durations.json
job=$(submit)
until_true "the first test of a task" 300 begun "$job" 1
scontrol requeue "${job}_1"
until_true "the first task's end" 120 grep -q 'interrupted\|REQUEUE' "kola-${job}_1.log"
until_true "three tasks, one of them twice" 600 ended "$job"
[[ $(field "${job}_1" Restarts) == 1 ]] || die "task 1 has not begun again"
succeeded "$job"
grep -q 'part weighted:1/3' "kola-${job}_1.log" || die "not by durations"
merged "$job" || { cat "merge-$job.log" && die "not merged"; }
say "job $job: one task requeued while it ran"

# Killed without a word, as when a node's memory runs out: the machines stay. Its user has it run again.
job=$(submit)
until_true "the first test of a task" 300 begun "$job" 2
kill -9 "$(process_of "$job" 2)"
until_true "the death of task 2" 120 ended "${job}_2"
[[ $(field "${job}_2" JobState) == FAILED ]] || die "task 2 was killed and is $(field "${job}_2" JobState)"
scontrol requeue "${job}_2"
until_true "three tasks, one of them twice" 600 ended "$job"
succeeded "$job"
grep -q 'left by a former run' "kola-${job}_2.log" || die "task 2 has left nothing, so this shows nothing"
merged "$job" || { cat "merge-$job.log" && die "not merged"; }
say "job $job: one task killed and run again"

# A task that never begins.
job=$(submit)
scancel "${job}_3"
until_true "two tasks of three" 600 ended "$job"
[[ ! -e kola-$job/part-3 ]] || die "task 3 has begun before it could be cancelled"
! merged "$job" || die "a part is missing, and nobody said so"
grep -q "part 3 of 3" "merge-$job.log" || { cat "merge-$job.log" && die "the missing part is not named"; }
say "job $job: one task cancelled before it began"
for part in kola-*/part-*; do nothing_left "$part"; done
say "all tests passed"
