package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// RestartWay is how a static pod is restarted.
type RestartWay string

const (
	// RestartContainer removes the container by crictl rm --force, and restarts the kubelet, which makes another.
	RestartContainer RestartWay = "container"
	// RestartManifest moves the manifest out of the kubelet's sight, waits until the container is gone, and moves it back.
	RestartManifest RestartWay = "manifest"
)

// StaticPodConfig are steps that restart, stop or start a static pod, one for each host.
type StaticPodConfig struct {
	// Name is in front of the host's in the steps' names; "" is "restart", "stop" or "start" with the container's name, such as "restart/kube-apiserver".
	Name      string
	Reference string
	// Hosts run it, in order. Required.
	Hosts []Host
	// Container is the container's name within the pod; "" is kube-apiserver.
	Container string
	// Way is how RestartStaticPod restarts; "" is RestartContainer.
	Way RestartWay
	// Manifest is its path; "" is /etc/kubernetes/manifests/ and the container's name with .yaml.
	Manifest string
	// Ready tells whether the pod of a host serves; until it returns nil the step is not done, and the next host's does not begin. Required by RestartStaticPod and StartStaticPod.
	Ready func(ctx context.Context, h Host) error
	// ReadyCheck says what Ready looks at, for the plan. Required with Ready.
	ReadyCheck string
	// Crictl is the program and its options; nil is crictl.
	Crictl []string
	// Poll is how often it is looked whether the pod is there, or gone; 0 is DefaultPoll.
	Poll time.Duration
	// Timeout bounds the step; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// DefaultPoll is how often steps look whether something has come about.
const DefaultPoll = 2 * time.Second

// RestartStaticPod makes steps that restart a static pod on one host after the other. A step is done when a container that is younger than the step's beginning runs, and is ready. Ages are
// taken by the host's own clock. There is nothing to take back: Undo leaves the pod as it is, so a configuration that is undone needs a restart of its own.
// Errors match failover.ErrConfig.
func RestartStaticPod(cfg StaticPodConfig) ([]failover.Step, error) {
	return staticPods(cfg, "restart", func(p staticPod) failover.Funcs {
		d := failover.Description{Action: fmt.Sprintf("Restart %s on %s", p.container, p.host.Name()), Verify: p.cfg.ReadyCheck, Undo: "Nothing: the pod runs on"}
		d.Commands = []string{"on " + p.host.Name() + ": sudo " + words(p.list("--quiet"), plainWord), "sudo " + words(append(slices.Clone(p.crictl), "rm", "--force"), plainWord) + " CONTAINER", "sudo systemctl restart kubelet.service"}
		if p.cfg.Way == RestartManifest {
			d.Commands = []string{fmt.Sprintf("on %s: sudo mv %s %s", p.host.Name(), plainWord(p.manifest), plainWord(p.away())), "wait until the container is gone",
				fmt.Sprintf("sudo mv %s %s", plainWord(p.away()), plainWord(p.manifest))}
		}
		return failover.Funcs{Description: d, Observe: p.observeRestarted, Do: p.doRestart, Undo: func(ctx context.Context) error {
			if p.cfg.Way == RestartManifest { // an interrupted restart may have left it away
				if err := p.manifestBack(ctx); err != nil {
					return err
				}
			}
			return failover.Save(ctx, savedUndone, true)
		}}
	})
}

// StopStaticPod makes steps that move the manifest of a static pod out of the kubelet's sight and wait until its container is gone; Undo moves it back. Errors match failover.ErrConfig.
func StopStaticPod(cfg StaticPodConfig) ([]failover.Step, error) {
	return staticPods(cfg, "stop", func(p staticPod) failover.Funcs {
		return failover.Funcs{Description: failover.Description{Action: fmt.Sprintf("Stop %s on %s", p.container, p.host.Name()), Undo: "Move the manifest back, and wait until the container runs",
			Commands: []string{fmt.Sprintf("on %s: sudo mv %s %s", p.host.Name(), plainWord(p.manifest), plainWord(p.away()))}},
			Observe: func(ctx context.Context) (failover.Observation, error) { return p.observe(ctx, false) }, Do: p.stop, Undo: p.start}
	})
}

// StartStaticPod makes steps that move the manifest of a static pod, which StopStaticPod moved away, back, and wait until it is ready; Undo moves it away. Errors match failover.ErrConfig.
func StartStaticPod(cfg StaticPodConfig) ([]failover.Step, error) {
	return staticPods(cfg, "start", func(p staticPod) failover.Funcs {
		return failover.Funcs{Description: failover.Description{Action: fmt.Sprintf("Start %s on %s", p.container, p.host.Name()), Undo: "Move the manifest away, and wait until the container is gone", Verify: p.cfg.ReadyCheck,
			Commands: []string{fmt.Sprintf("on %s: sudo mv %s %s", p.host.Name(), plainWord(p.away()), plainWord(p.manifest))}},
			Observe: func(ctx context.Context) (failover.Observation, error) { return p.observe(ctx, true) }, Do: p.start, Undo: p.stop}
	})
}

const (
	savedContainers = "containers"
	savedUndone     = "undone"
)

var containerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// check fills in the defaults.
func (cfg *StaticPodConfig) check(verb string) error {
	var errs []error
	bad := func(field, detail, hint string) {
		errs = append(errs, badConfig("StaticPodConfig."+field+" "+detail, hint))
	}
	if cfg.Container == "" {
		cfg.Container = "kube-apiserver"
	}
	if !containerName.MatchString(cfg.Container) {
		bad("Container", fmt.Sprintf("is %q", cfg.Container), "give the container's name, such as etcd")
	}
	if cfg.Manifest == "" {
		cfg.Manifest = "/etc/kubernetes/manifests/" + cfg.Container + ".yaml"
	}
	if !cleanPath(cfg.Manifest) || strings.HasPrefix(path.Base(cfg.Manifest), ".") {
		bad("Manifest", fmt.Sprintf("is %q", cfg.Manifest), "give the absolute path of the pod's manifest")
	}
	switch cfg.Way {
	case "":
		cfg.Way = RestartContainer
	case RestartContainer, RestartManifest:
	default:
		bad("Way", fmt.Sprintf("is %q", cfg.Way), "use RestartContainer or RestartManifest")
	}
	if cfg.Ready == nil && verb != "stop" {
		bad("Ready", "is missing", "tell whether the pod serves: the next host must not be touched before")
	}
	if cfg.Ready != nil && cfg.ReadyCheck == "" {
		bad("ReadyCheck", "is missing", "say what Ready looks at")
	}
	if cfg.Poll < 0 || cfg.Timeout < 0 {
		bad("Poll or Timeout", "is negative", "leave it 0 for the default")
	}
	if cfg.Poll == 0 {
		cfg.Poll = DefaultPoll
	}
	errs = append(errs, checkHosts("StaticPodConfig.Hosts", cfg.Hosts))
	cfg.Crictl = slices.Clone(cfg.Crictl)
	if len(cfg.Crictl) == 0 {
		cfg.Crictl = []string{"crictl"}
	}
	return errors.Join(errs...)
}

func staticPods(cfg StaticPodConfig, verb string, step func(p staticPod) failover.Funcs) ([]failover.Step, error) {
	if err := cfg.check(verb); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = verb + "/" + cfg.Container
	}
	var all []failover.Step
	for _, h := range cfg.Hosts {
		f := step(staticPod{cfg: cfg, host: h, container: cfg.Container, manifest: cfg.Manifest, crictl: cfg.Crictl})
		f.Name, f.Timeout, f.Description.Reference = cfg.Name+"/"+stepPart(h), cfg.Timeout, cfg.Reference
		f.Description.Inputs = map[string]any{"host": h.Name(), "container": cfg.Container, "manifest": cfg.Manifest, "way": cfg.Way, "crictl": cfg.Crictl, "ready": cfg.ReadyCheck}
		all = append(all, f.Step())
	}
	return all, nil
}

// staticPod is one on one host.
type staticPod struct {
	cfg                 StaticPodConfig
	host                Host
	container, manifest string
	crictl              []string
}

// away is where the manifest waits: the kubelet does not look at hidden files, and a rename within one folder is whole.
func (p staticPod) away() string {
	return path.Dir(p.manifest) + "/." + path.Base(p.manifest) + ".away"
}

// list lists the running containers of the name.
func (p staticPod) list(more ...string) []string {
	return append(append(slices.Clone(p.crictl), "ps", "--name", "^"+p.container+"$", "--no-trunc"), more...)
}

// sight is what a host shows.
type sight struct {
	running []container // the oldest first
	away    bool        // the manifest is
	there   bool
}

type container struct {
	id  string
	age time.Duration
}

// look says the host's time after the containers, so that an age is rather too high: a container that looks younger than the step is.
const podScript = `m=$1 a=$2
shift 2
"$@" || exit 4
echo
date +%s%N
[ -e "$m" ] && echo there
[ -e "$a" ] && echo away
exit 0`

func (p staticPod) look(ctx context.Context) (s sight, err error) {
	args := append([]string{"/bin/sh", "-c", podScript, "sh", p.manifest, p.away()}, p.list("-o", "json")...)
	res, err := p.host.Run(ctx, Command{Args: args, Root: true})
	if err := ended(p.host, res, err, nil); err != nil {
		return s, fmt.Errorf("list the containers: %w", err)
	}
	running, rest, err := parseContainers(res.Stdout)
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.host.Name(), err)
	}
	s.running = running
	s.there, s.away = slices.Contains(rest, "there"), slices.Contains(rest, "away")
	return s, nil
}

// parseContainers reads what crictl ps -o json printed, and the time and words behind it.
func parseContainers(out string) (all []container, rest []string, err error) {
	var listed struct {
		Containers []struct {
			ID        string `json:"id"`
			State     string `json:"state"`
			CreatedAt string `json:"createdAt"`
		} `json:"containers"`
	}
	dec := json.NewDecoder(strings.NewReader(out))
	if err := dec.Decode(&listed); err != nil {
		return nil, nil, fmt.Errorf("what crictl ps printed is no JSON: %w", err)
	}
	rest = strings.Fields(out[dec.InputOffset():])
	if len(rest) == 0 {
		return nil, nil, errors.New("the host does not say its time")
	}
	now, err := strconv.ParseInt(rest[0], 10, 64)
	if err != nil || now <= 0 {
		return nil, nil, fmt.Errorf("the host says as its time %q: its date has to know %%N", rest[0])
	}
	for _, c := range listed.Containers {
		created, err := strconv.ParseInt(c.CreatedAt, 10, 64)
		if err != nil || c.ID == "" {
			return nil, nil, errors.New("what crictl ps printed has a container without an id or a time")
		}
		if c.State == "CONTAINER_RUNNING" {
			all = append(all, container{c.ID, time.Duration(now - created)})
		}
	}
	slices.SortFunc(all, func(a, b container) int { return int(min(max(b.age-a.age, -1), 1)) })
	return all, rest, nil
}

func (p staticPod) ready(ctx context.Context) (string, error) {
	if p.cfg.Ready == nil {
		return "", nil
	}
	if err := p.cfg.Ready(ctx, p.host); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "not ready: " + NewMasker().Mask(err.Error()), nil
	}
	return "", nil
}

// observeRestarted: done when all that runs is younger than the step, and ready.
func (p staticPod) observeRestarted(ctx context.Context) (failover.Observation, error) {
	began, begun := failover.Began(ctx)
	since := time.Since(began) // before the look: rather too short
	var undone bool
	if _, err := failover.Load(ctx, savedUndone, &undone); err != nil {
		return failover.Observation{}, err
	}
	s, err := p.look(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	var old []string
	if _, err := failover.Load(ctx, savedContainers, &old); err != nil {
		return failover.Observation{}, err
	}
	at := func(state failover.State, detail string) (failover.Observation, error) {
		return failover.Observation{State: state, Detail: p.container + ": " + detail}, nil
	}
	switch {
	case s.away && !undone:
		return at(failover.Partial, "its manifest is moved away")
	case !begun || undone:
		if len(s.running) == 0 {
			return at(failover.Pending, "it does not run")
		}
		return at(failover.Pending, "it runs since "+s.running[0].age.Round(time.Second).String())
	case len(s.running) == 0:
		return at(failover.Partial, "it does not run")
	case s.running[0].age >= since || slices.Contains(old, s.running[0].id):
		return at(failover.Pending, "it runs since before this step began")
	}
	if why, err := p.ready(ctx); err != nil {
		return failover.Observation{}, err
	} else if why != "" {
		return at(failover.Partial, "it was restarted, and is "+why)
	}
	return at(failover.Done, "it was restarted, and is ready: "+p.cfg.ReadyCheck)
}

// observe: done when it is started, or stopped.
func (p staticPod) observe(ctx context.Context, started bool) (failover.Observation, error) {
	s, err := p.look(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	at := func(state failover.State, detail string) (failover.Observation, error) {
		return failover.Observation{State: state, Detail: p.container + ": " + detail}, nil
	}
	switch runs := len(s.running) > 0; {
	case s.there && s.away:
		return at(failover.Blocked, fmt.Sprintf("there are two manifests, %s and %s: remove the one that does not count", p.manifest, p.away()))
	case !s.there && !s.away:
		return at(failover.Blocked, fmt.Sprintf("there is no manifest, neither %s nor %s", p.manifest, p.away()))
	case s.there && runs && started:
		why, err := p.ready(ctx)
		if err != nil {
			return failover.Observation{}, err
		}
		if why != "" {
			return at(failover.Partial, "it runs, and is "+why)
		}
		return at(failover.Done, "it runs, and is ready")
	case s.away && !runs && !started:
		return at(failover.Done, "it is stopped")
	case s.there && runs:
		return at(failover.Pending, "it runs")
	case s.away && !runs:
		return at(failover.Pending, "it is stopped")
	case s.there:
		return at(failover.Partial, "its manifest is there, and it does not run yet")
	}
	return at(failover.Partial, "its manifest is moved away, and it runs yet")
}
