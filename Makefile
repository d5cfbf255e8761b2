# The root module's tests need nothing installed. The other suites say what they need.
STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: test race vet lint integration e2e soak fuzz bench bench-quick verify tidy

test:
	go test ./...

race:
	go test -race ./...

vet:
	go vet ./...
	cd internal/bench && go vet ./...

lint: vet
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(STATICCHECK) ./...
	cd internal/bench && $(STATICCHECK) ./...

# Needs an installed etcd server of another version: Debian's etcd-server, or any path.
integration: export UNDERSTUDY_ETCD ?= /usr/bin/etcd
integration:
	go test -count=1 ./internal/integration/

# Needs etcd, kube-apiserver and kube-controller-manager in the folder KUBEBUILDER_ASSETS (setup-envtest use -p path), and haproxy.
e2e:
	go test -count=1 -timeout 40m -v ./internal/e2e/

# Random schedules of traffic and faults, for as long as asked: make soak DURATION=30m
DURATION ?= 10m
soak:
	go test -count=1 -timeout 0 -v -run '^TestSoak$$' ./internal/soak/ -soak.duration=$(DURATION)

FUZZTIME ?= 60s
fuzz:
	go test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(FUZZTIME) ./keyfilter/
	go test -run '^$$' -fuzz '^FuzzLoad$$' -fuzztime $(FUZZTIME) ./keyfilter/
	go test -run '^$$' -fuzz '^FuzzGlob$$' -fuzztime $(FUZZTIME) ./keyfilter/
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzRead$$' -fuzztime $(FUZZTIME) ./internal/kubemeta/
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzIntact$$' -fuzztime $(FUZZTIME) ./etcdmirror/
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzEncrypted$$' -fuzztime $(FUZZTIME) ./internal/kubemeta/
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzCompareObjects$$' -fuzztime $(FUZZTIME) ./drcheck/
	go test -run '^$$' -fuzz '^FuzzMatch$$' -fuzztime $(FUZZTIME) ./keyfilter/
	go test -run '^$$' -fuzz '^FuzzKeyValues$$' -fuzztime $(FUZZTIME) ./internal/kvstream/
	for f in FuzzParse FuzzMerge FuzzTranscode FuzzVerifyLoaded; do go test -run '^$$' -fuzzminimizetime 200x -fuzz "^$$f$$" -fuzztime $(FUZZTIME) ./encryption/ || exit 1; done
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzParseJournal$$' -fuzztime $(FUZZTIME) ./failover/
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzReplay$$' -fuzztime $(FUZZTIME) ./failover/
	go test -run '^$$' -fuzzminimizetime 200x -fuzz '^FuzzParseDecision$$' -fuzztime $(FUZZTIME) ./failover/
	go test -run '^$$' -fuzz '^FuzzParseEndpoints$$' -fuzztime $(FUZZTIME) ./examples/internal/connect/

# Understudy beside etcdctl make-mirror and beside what the etcds can do: MEASURE=all, or copy, tail, backlog, resync, idle, wan or check.
# KEYS may be a list, OUT is a directory for the reports, BENCHFLAGS are more flags: make bench MEASURE=tail KEYS=20000,100000 OUT=/tmp/bench BENCHFLAGS=-runs=5
MEASURE ?= all
KEYS ?= 20000
OUT ?=
BENCHFLAGS ?=
bench:
	cd internal/bench && go run . -measure $(MEASURE) -keys $(KEYS) $(if $(OUT),-out $(abspath $(OUT))) $(BENCHFLAGS)

# All of it in small, in a few minutes: to see that it works.
bench-quick:
	cd internal/bench && go run . -measure all -quick $(if $(OUT),-out $(abspath $(OUT))) $(BENCHFLAGS)

tidy:
	go mod tidy -diff
	cd internal/bench && go mod tidy -diff

verify: lint tidy race integration
