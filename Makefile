# make run   an agent with a SoftHSM token and a demo session, in the foreground
# make test  every test there is
# make demo  one shot: sign, be refused, see the audit trail
# make bench signatures a second, as ratios to the token's own, into docs/performance.md
# make conformance-piv  do other programs take the simulated YubiKey for one? Part of make test
# make endurance  millions of signed transactions at the ledger: its size, its latency
# make simulate SEED=1 OPS=1000000  the core on a simulated disk, device, chain and clock
# make model             every state of a model of the ledger that several agents share
# make kills      the agent and its ledger, killed 1,000 times each under load
# make soak SOAK=10m       clients, faults of a device, kills and strangers at one agent: sums, growth and latency at the end
# make lossy CUTS=100      the agent on a file system that loses what was not synced, its power cut under load; needs root and /dev/fuse
# make mutate SEED=1 MUTANTS=400  what the tests notice of changes of the code; resumable, about half an hour on a quiet machine
# make vault  the transit backend at a real Vault, built from its Go module; the first time takes long
# make wrapped KEYS=100000  so many wrapped keys on one SoftHSM token
# make packages      a Debian package, an RPM and a tarball, into dist/
# make install-test  the Debian package in a container with systemd: install, restart, crash, upgrade, reboot, removal
# make watch-test    the dashboard's queries and each alert, in Prometheus, on running agents
# make devices       the backends' suite and the whole agent on openCryptoki, wolfPKCS11, p11-kit remote, swtpm, SoftHSM and Vault; one table
# make check gofmt, go vet and staticcheck
# make container-test  the root directory of the container image, with the agent in it as another user
# make docs  the documents as a site, into dist/site
# make check gofmt, go vet, staticcheck and actionlint
# make licenses      does all that ships have a license that allows it
# make reproducible  two builds of HEAD, in two directories: one hash
# make lint  check, licenses, reproducible and govulncheck

FUZZTIME ?= 2s
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.1.4

TAGS ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

export CGO_ENABLED = 1
# One setting for all that builds: with and without it, each package is built twice.
export GOFLAGS += -trimpath

.PHONY: build run test check testnode unit conformance-piv fuzz node demo bench bench-short endurance lint clean deps deps-test simulate kills model soak lossy mutate packages install-test licenses reproducible watch-test vault wrapped container-test docs devices

# Of what is left out by -tags, no part is used: grpc's HTML pages and the CLI library's manual pages.
# Clouds can be left out with TAGS="noaws noazure nogcp". The version is what git says of the
# sources, or else what the go command knows of them.
build:
	go build -tags "grpcnotrace urfave_cli_no_docs $(TAGS)" -ldflags "-s -w -X github.com/keyward/keyward/internal/command.release=$(VERSION)" -o bin/keyward ./cmd/keyward

deps:
	@scripts/deps

deps-test:
	@scripts/deps test

run: deps build
	@scripts/run

test: deps-test build check testnode unit conformance-piv fuzz node

check:
	go vet ./...
	@unformatted=$$(gofmt -l $$(go list -f '{{.Dir}}' ./...)); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	go run $(STATICCHECK) ./...
	go run $(ACTIONLINT)

# The Ethereum node and the compiler that Go tests use, here so that no test waits for
# the download. Tests that find them missing install them too.
testnode:
	@cd chain/chaintest/node && npm ci --no-audit --no-fund --loglevel=error && cp package-lock.json node_modules/.installed

# Each time: tests that run the built agent depend on more than the go command's cache knows of. The longest
# packages are first, so that others run beside them; make check has vetted all.
unit:
	go test -race -vet=off -count=1 -timeout 30m ./softhsm-test ./internal/command ./...

conformance-piv: deps-test
	@scripts/conformance-piv

# Each target for a few seconds. Only what has one is listed; a target can't be forgotten.
fuzz:
	@scripts/fuzz $(FUZZTIME)

# Every npm package in the repository.
node: build
	@set -e; for manifest in $$(find . -name package.json -not -path '*/node_modules/*' | sort); do \
		dir=$$(dirname $$manifest); \
		echo "npm test in $$dir"; \
		(cd $$dir && npm ci --no-audit --no-fund --loglevel=error && npm test --if-present); \
	done

demo: deps build
	@softhsm-test/demo/demo.sh

bench: deps
	@scripts/bench

bench-short: deps
	@scripts/bench short

# About an hour. With a progress line every 10 seconds.
TRANSACTIONS ?= 10000000
endurance:
	go test ./session -run '^TestEndurance$$' -count=1 -v -timeout 24h -transactions $(TRANSACTIONS)

SEED ?= 1
OPS ?= 1000000

simulate:
	go test -count=1 -timeout 0 -v ./session -run '^TestSimulate$$' -sim.seed=$(SEED) -sim.ops=$(OPS)

# Every state of a model of the shared ledger. Minutes.
model:
	@scripts/deps model
	@scripts/model

KILLS ?= 1000
kills: deps-test
	go test ./session -run '^TestKilledWhileSettling$$' -count=1 -v -timeout 24h -kills $(KILLS)
	go test ./softhsm-test -run '^TestKilledUnderLoad$$' -count=1 -v -timeout 24h -kills $(KILLS)

SOAK ?= 10m
soak: deps-test
	go vet -tags soak ./softhsm-test
	go test -tags soak ./softhsm-test -run '^TestSoak$$' -count=1 -v -timeout 24h -soak $(SOAK)

CUTS ?= 100
lossy: deps-test
	go vet -tags lossy ./softhsm-test
	go test -tags lossy ./softhsm-test -run '^TestPowerCutOf' -count=1 -v -timeout 24h -cuts $(CUTS)

MUTANTS ?= 400
MUTATED = internal/durable audit backends/sealed backends/internal/keyfile internal/zktx policy internal/secret session

mutate:
	go run ./internal/mutate -seed $(SEED) -n $(MUTANTS) -state mutate-$(SEED).jsonl $(MUTATED)

vault:
	@scripts/vault -v

KEYS ?= 100000
wrapped: deps
	go test ./backends/pkcs11 -run '^TestManyWrappedKeys$$' -count=1 -v -timeout 24h -wrapped.keys $(KEYS)

packages: deps
	@scripts/deps packages
	@scripts/packages
	@lintian --fail-on error,warning dist/*.deb

# Needs root. A target of its own: it takes the packages' build, and a machine on which systemd-nspawn works.
install-test: packages
	@scripts/install-test "$$(ls -t dist/keyward_*.deb | head -n 1)"

# Each alert fired by its fault, in Debian's Prometheus, on a running agent. Needs root, for a small disk and for strace.
watch-test: deps-test testnode
	go test ./softhsm-test -run '^(TestDashboard|TestAlerts)$$' -count=1 -v -timeout 1h -alerts all
# Needs root.
container-test: packages
	@scripts/container-test "$$(ls -t dist/keyward_*.deb | head -n 1)"

# The documents as a site in dist/site. A warning, such as a link that leads nowhere, is a failure.
docs:
	@scripts/deps docs
	@mkdocs build --quiet --strict
	@rm -f dist/site/sitemap.xml.gz # which has the time in it

# Modules in the binary and npm packages that ship: each under a license that is allowed.
licenses: build
	@scripts/deps packages
	@scripts/licenses bin/keyward

# Some minutes: the second build uses no cache.
reproducible: deps
	@scripts/reproducible

# Needs root, and downloads a Debian 13 and a source the first time. DEVICES="swtpm" is only that one.
devices: deps-test
	@scripts/devices $(DEVICES)

lint: check licenses reproducible
	go run $(GOVULNCHECK) ./...

clean:
	rm -rf bin dist
