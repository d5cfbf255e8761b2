package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"runtime/pprof"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
	"github.com/understudy-dr/understudy/keyfilter"
)

// roleArg as the first argument makes this binary play one role of the benchmark, named by the second.
const roleArg = "bench-role"

// Roles. Each prints lines on stdout as its benchmark expects and lives until its stdin ends, so that none outlives the benchmark.
const (
	roleEtcd       = "etcd" // prints its client endpoint
	roleLoad       = "load" // fills the source; prints readyLine
	roleIdle       = "idle" // a client of both sides that has read once; prints readyLine
	roleMakeMirror = "make-mirror"
	roleUnderstudy = "understudy" // prints its counters as JSON when the base copy is done; with -serve when the tail begins, and again after stopLine
	roleWriter     = "writer"     // prints readyLine when it holds everything, begins at goLine, prints doneLine
	roleLogWriter  = "log-writer" // the same with what happened at the source since a revision
	roleProxy      = "proxy"      // delays what passes to the source; prints its endpoint, and at bytesLine what has passed as JSON
	roleTraffic    = "traffic"    // prints readyLine when the mirror follows, writes at goLine, and prints its figures as JSON

	// These print readyLine when they are connected, begin to read both sides at goLine, and print what they have seen as JSON.
	roleReadStream   = "read-stream"   // keys and values, as one stream of each side
	roleReadPages    = "read-pages"    // keys and values, in pages
	roleReadKeys     = "read-keys"     // keys, as one stream of each side
	roleCheckContent = "check-content" // drcheck
	roleCheckKeys    = "check-keys"    // drcheck, keys only
)

const (
	readyLine = "ready"
	doneLine  = "done"
	goLine    = "go"
	stopLine  = "stop"
)

// prefix is what is copied.
const prefix = etcdmirror.DefaultPrefix

// requestTimeout bounds each request of the benchmark's own clients. Single transactions of more than 0.1 s are normal under load.
const requestTimeout = 30 * time.Second

// loadParallel is how many transactions fill the source at once.
const loadParallel = 8

// roleFlags are the flags of all roles; each uses some.
type roleFlags struct {
	dir            string
	source, target string
	keys           int
	filter         bool
	cpuProfile     string
	engine         engineConfig
	writer         writerShape
	volatile       bool  // load also what a cluster writes by itself
	serve          bool  // mirror until told to stop
	rev            int64 // the revision that make-mirror begins with instead of a copy, and the log-writer
	traffic        trafficPlan
	delay          time.Duration // each way
}

// args gives the flags back as arguments.
func (f roleFlags) args(role string) []string {
	return append([]string{roleArg, role, "-dir=" + f.dir, "-source=" + f.source, "-target=" + f.target, "-keys=" + strconv.Itoa(f.keys),
		"-filter=" + strconv.FormatBool(f.filter), "-cpuprofile=" + f.cpuProfile,
		"-batch-ops=" + strconv.Itoa(f.engine.batchOps), "-batch-bytes=" + strconv.Itoa(f.engine.batchBytes), "-in-flight=" + strconv.Itoa(f.engine.inFlight),
		"-writer-ops=" + strconv.Itoa(f.writer.ops), "-writer-in-flight=" + strconv.Itoa(f.writer.inFlight),
		"-volatile=" + strconv.FormatBool(f.volatile), "-serve=" + strconv.FormatBool(f.serve), "-rev=" + strconv.FormatInt(f.rev, 10), "-delay=" + f.delay.String()}, f.traffic.args()...)
}

// runRole plays the role that args ask for and reports whether there was one.
func runRole(args []string) bool {
	if len(args) < 3 || args[1] != roleArg {
		return false
	}
	var f roleFlags
	fs := flag.NewFlagSet(args[2], flag.ExitOnError)
	fs.StringVar(&f.dir, "dir", "", "")
	fs.StringVar(&f.source, "source", "", "")
	fs.StringVar(&f.target, "target", "", "")
	fs.IntVar(&f.keys, "keys", 0, "")
	fs.BoolVar(&f.filter, "filter", false, "")
	fs.StringVar(&f.cpuProfile, "cpuprofile", "", "")
	fs.IntVar(&f.engine.batchOps, "batch-ops", 0, "")
	fs.IntVar(&f.engine.batchBytes, "batch-bytes", 0, "")
	fs.IntVar(&f.engine.inFlight, "in-flight", 0, "")
	fs.IntVar(&f.writer.ops, "writer-ops", 0, "")
	fs.IntVar(&f.writer.inFlight, "writer-in-flight", 0, "")
	fs.BoolVar(&f.volatile, "volatile", false, "")
	fs.BoolVar(&f.serve, "serve", false, "")
	fs.Int64Var(&f.rev, "rev", 0, "")
	fs.DurationVar(&f.delay, "delay", 0, "")
	f.traffic.flags(fs)
	_ = fs.Parse(args[3:]) // exits on errors

	orders := readOrders()
	roles := map[string]func(roleFlags, <-chan string) error{
		roleEtcd: playEtcd, roleLoad: playLoad, roleIdle: playIdle, roleMakeMirror: playMakeMirror, roleUnderstudy: playUnderstudy, roleWriter: playWriter,
		roleTraffic: playTraffic, roleLogWriter: playLogWriter, roleProxy: playProxy,
		roleReadStream: playReader(readSides(readStream(false))), roleReadPages: playReader(readSides(readPages)), roleReadKeys: playReader(readSides(readStream(true))),
		roleCheckContent: playReader(check(drcheck.Content)), roleCheckKeys: playReader(check(drcheck.KeysOnly)),
	}
	play, ok := roles[args[2]]
	if !ok {
		fmt.Fprintf(os.Stderr, "role %q is unknown\n", args[2])
		os.Exit(2)
	}
	if err := play(f, orders); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[2], err)
		os.Exit(1)
	}
	select {} // until stdin ends: memory and CPU time are read while the process is there
}

// readOrders reads what the benchmark says, and ends the process when the benchmark ends.
func readOrders() <-chan string {
	orders := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			orders <- lines.Text()
		}
		os.Exit(0)
	}()
	return orders
}

func awaitGo(orders <-chan string) error {
	if order := <-orders; order != goLine {
		return fmt.Errorf("order %q is unknown", order)
	}
	return nil
}

func playEtcd(f roleFlags, _ <-chan string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	standard := embed.NewConfig()
	c, err := embedetcd.Start(ctx, embedetcd.Options{Dir: f.dir, Fsync: true, Change: func(_ int, cfg *embed.Config) {
		cfg.TickMs, cfg.ElectionMs = standard.TickMs, standard.ElectionMs
		cfg.EnableGRPCGateway = standard.EnableGRPCGateway
		cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	}})
	if err != nil {
		return err
	}
	fmt.Println("http://" + c.Member(0).Clients[0].Addr().String())
	return nil
}

func playLoad(f roleFlags, _ <-chan string) error {
	client, err := connect(f.source)
	if err != nil {
		return err
	}
	if err := kubeobj.LoadDataset(context.Background(), client, f.keys, loadParallel); err != nil {
		return err
	}
	if f.volatile {
		if err := loadVolatile(context.Background(), client, f.keys); err != nil {
			return err
		}
	}
	fmt.Println(readyLine)
	return nil
}

func playIdle(f roleFlags, _ <-chan string) error {
	if _, _, err := connectBoth(f); err != nil {
		return err
	}
	fmt.Println(readyLine)
	return nil
}

// playMakeMirror is etcdctl as it is, with the arguments that an operator would give.
func playMakeMirror(f roleFlags, _ <-chan string) error {
	os.Args = []string{"etcdctl", "--endpoints", f.source, "make-mirror", "--prefix", prefix, f.target}
	if f.rev > 0 { // then it forgets the prefix at the target unless it is told
		os.Args = append(os.Args, "--rev", strconv.FormatInt(f.rev, 10), "--dest-prefix", prefix)
	}
	ctlv3.MustStart() // it does not return unless it fails
	return errors.New("make-mirror ended")
}

// counters is what the understudy role reports.
type counters struct {
	Puts         int64 `json:"puts"`
	Bytes        int64 `json:"bytes"`
	Filtered     int64 `json:"filtered"`
	Transactions int64 `json:"transactions"`
	Splits       int64 `json:"splits"`
	Resyncs      int64 `json:"resyncs"`
	Rounds       int   `json:"rounds"`
	// CopySeconds is the engine's own measure of the last round.
	CopySeconds float64 `json:"copySeconds"`
	// MeanInFlight is how many transactions were under way on average over CopySeconds: near the setting, the target is what limits; far below, the mirror or the source.
	MeanInFlight float64 `json:"meanInFlight"`
}

func playUnderstudy(f roleFlags, orders <-chan string) error {
	var n counters
	if err := profiled(f.cpuProfile, func() (err error) {
		n, err = mirror(f, orders)
		return err
	}); err != nil {
		return err
	}
	return printCounters(n)
}

// profiled does work under a CPU profile, if a file for one is named. The file is complete when it returns.
func profiled(path string, work func() error) error {
	if path == "" {
		return work()
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err = pprof.StartCPUProfile(file); err == nil {
		err = work()
		pprof.StopCPUProfile()
	}
	return errors.Join(err, file.Close())
}

// mirror runs until the base copy is done; or it prints its counters when the tail begins, and serves until it is told to stop.
func mirror(f roleFlags, orders <-chan string) (n counters, err error) {
	source, err := connect(f.source)
	if err != nil {
		return n, err
	}
	target, err := connect(f.target)
	if err != nil {
		return n, err
	}
	cfg := etcdmirror.Config{Name: "bench", BatchOps: f.engine.batchOps, BatchBytes: f.engine.batchBytes, InFlight: f.engine.inFlight}
	if f.filter {
		filter, err := keyfilter.New(keyfilter.Config{})
		if err != nil {
			return n, err
		}
		cfg.Keep, cfg.KeepID, cfg.Skip = filter.Match, filter.Hash(), filter.Skips(etcdmirror.DefaultPrefix)
	}
	tail := make(chan struct{}, 1)
	cfg.Hooks.State = func(info etcdmirror.StateInfo) {
		if info.State == etcdmirror.StateTail {
			select {
			case tail <- struct{}{}:
			default:
			}
		}
	}
	var applying atomic.Int64 // nanoseconds, summed over all transactions
	cfg.Hooks.Applied = func(info etcdmirror.AppliedInfo) { applying.Add(int64(info.Duration)) }
	m, err := etcdmirror.New(source, target, cfg)
	if err != nil {
		return n, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	select {
	case <-tail:
	case err := <-ended:
		return n, fmt.Errorf("the mirror ended before the tail: %w", err)
	}
	if s := m.Status(); !f.serve && s.Copy.Ended.IsZero() {
		return n, errors.New("the tail began without a base copy")
	}
	n = countersOf(m.Status(), applying.Load())
	if f.serve {
		if err := printCounters(n); err != nil {
			return n, err
		}
		select {
		case order := <-orders:
			if order != stopLine {
				return n, fmt.Errorf("order %q is unknown", order)
			}
		case err := <-ended:
			return n, fmt.Errorf("the mirror ended in the tail: %w", err)
		}
		n = countersOf(m.Status(), 0)
	}
	cancel()
	return n, <-ended
}

// countersOf takes what all transactions of the copy took together, in nanoseconds.
func countersOf(s etcdmirror.Status, applying int64) counters {
	n := counters{Puts: s.Puts, Bytes: s.Bytes, Filtered: s.Filtered, Transactions: s.Transactions, Splits: s.Splits, Resyncs: s.Resyncs, Rounds: s.Copy.Round}
	if took := s.Copy.Ended.Sub(s.Copy.Began); took > 0 {
		n.CopySeconds, n.MeanInFlight = took.Seconds(), float64(applying)/float64(took)
	}
	return n
}

// since leaves what has come since before.
func (n *counters) since(before *counters) {
	n.Puts, n.Bytes, n.Filtered = n.Puts-before.Puts, n.Bytes-before.Bytes, n.Filtered-before.Filtered
	n.Transactions, n.Splits, n.Resyncs = n.Transactions-before.Transactions, n.Splits-before.Splits, n.Resyncs-before.Resyncs
	n.Rounds, n.CopySeconds, n.MeanInFlight = 0, 0, 0
}

func printCounters(n counters) error {
	line, err := json.Marshal(n)
	if err == nil {
		fmt.Println(string(line))
	}
	return err
}

func connect(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
}

// connectBoth returns clients of both sides, which have answered.
func connectBoth(f roleFlags) (source, target *clientv3.Client, err error) {
	clients := [2]*clientv3.Client{}
	for i, endpoint := range []string{f.source, f.target} {
		if clients[i], err = connect(endpoint); err != nil {
			return nil, nil, err
		}
		if _, err := get(context.Background(), clients[i], prefix); err != nil {
			return nil, nil, err
		}
	}
	return clients[0], clients[1], nil
}

// get reads with a deadline of its own.
func get(ctx context.Context, client *clientv3.Client, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return client.Get(ctx, key, opts...)
}
