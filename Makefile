# Targets only call the tools' own commands; run those by hand whenever you like.
# Two of them do all the set-up on a fresh Debian machine with Rust: `make demo` and `make test`.

CARGO_TARGET_DIR ?= target
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
# The shipped binary is static: kola sends itself to guests, whose C library may be older than this machine's.
MANTLE := $(CARGO_TARGET_DIR)/$(TRIPLE)/release/mantle
STATIC := OPENSSL_STATIC=1 RUSTFLAGS="-C target-feature=+crt-static"
TESTING := --features test-platform

.PHONY: demo test test-full setup release guest guest-full guest-all generate lint check check-full cork-sdk kola-nspawn kola-qemu \
	kola-full test-openstack test-slurm bench

demo: setup release guest          ## boot a real guest in QEMU and test it
	$(MANTLE) kola run --parallel 2 debian.basic coreos.auth.verify 'coreos.ignition.v2.*' systemd.sysusers.gshadow
	@echo "results: _kola_temp/qemu-latest/ (report.json and junit.xml in reports/, one folder a test)"

test: setup                        ## everything CI runs
	+$(MAKE) --jobs=2 guest-full lint   # one waits for packages while the other computes
	+$(MAKE) check release cork-sdk kola-nspawn kola-qemu
	@echo "all tests passed"

test-full: test guest-all check-full kola-full test-slurm   ## what takes longer than CI should; a few hours where guests are emulated
	@echo "all tests passed, long ones too"

setup:                             ## install the Debian packages that building and testing need
	tests/setup.sh

release:                           ## the shipped binary
	$(STATIC) cargo build --release --locked --target $(TRIPLE)
	@! readelf -l $(MANTLE) | grep -q INTERP || { echo "$(MANTLE) is not static"; exit 1; }

guest:                             ## mantle's own guest image
	tests/guest/build.sh --variant base

guest-full:                        ## the same with docker, podman, etcd, NFS, ...
	tests/guest/build.sh --variant full

guest-all: guest-full              ## and those that can be updated, or have SELinux
	tests/guest/build.sh --variant update
	tests/guest/build.sh --variant selinux

generate:                          ## rewrite man pages and completions
	cargo run --quiet -- generate all --out .

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets $(TESTING) -- -D warnings

# Many tests wait for something now and then.
check:                             ## unit and integration tests
	cargo nextest run --locked $(TESTING) --test-threads $(shell expr $$(nproc) \* 3 / 2)

check-full: release guest-all      ## tests that are left out of `check` because they take minutes
	tests/setup.sh tests/packages-full.txt
	MANTLE_TEST_KOLET=$(MANTLE) cargo nextest run --locked $(TESTING) --run-ignored ignored-only

cork-sdk: release                  ## the README's walk through an SDK of Debian packages, by a user who is not root
	MANTLE=$(MANTLE) MANTLE_TEST_SDK=$$(tests/cork/sdk/debian.sh) cargo nextest run --locked $(TESTING) \
		-E 'test(cork::chroot::the_readme) + test(cork::chroot::from_create)'

kola-nspawn: release guest-full    ## all tests that need no machine of their own, in containers
	$(MANTLE) kola run --platform nspawn --parallel 2 --output-dir $(CARGO_TARGET_DIR)/_nspawn_temp
	MANTLE_TEST_KOLET=$(MANTLE) cargo nextest run --locked $(TESTING) -E 'test(kola::updates)'

kola-qemu: release guest-full      ## those that need a machine, and full boots by both firmwares
	MANTLE=$(MANTLE) tests/kola-qemu.sh $(CARGO_TARGET_DIR)/kola
	MANTLE=$(MANTLE) MANTLE_TEST_MACHINES=qemu-unpriv cargo nextest run --locked $(TESTING) \
		-E 'test(cloud::aws::kola::real_tests) + test(readme::real_tests)'

kola-full: release guest-all       ## every test that one of our guests can run, three times, on both local platforms
	MANTLE=$(MANTLE) tests/kola-full.sh $(CARGO_TARGET_DIR)/kola
	MANTLE_TEST_MACHINES=qemu-unpriv cargo nextest run --locked $(TESTING) -E 'test(kola::real_tests)'

test-slurm: release guest-full      ## parts of a suite on a real Slurm, two nodes on this machine
	tests/setup.sh tests/packages-full.txt
	MANTLE=$(MANTLE) tests/slurm.sh $(CARGO_TARGET_DIR)/slurm

test-openstack:                    ## what mantle asks of an OpenStack, against the real services (outside CI)
	cargo nextest run --locked $(TESTING) --no-run
	tests/openstack/run.sh cargo nextest run --locked --offline $(TESTING) -E 'test(cloud::openstack::real)'
