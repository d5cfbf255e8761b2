package kube

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/understudy-dr/understudy/failover"
)

// maxAnswer bounds the answer of a check.
const maxAnswer = 16 << 20

// ReadCheckConfig is the configuration of ReadCheck. The zero value of each field but Cluster, Namespace and Service is its documented default.
type ReadCheckConfig struct {
	// Name of the gate; "" is check/, the cluster, the namespace and the service.
	Name string
	// Reference says where the gate comes from.
	Reference string
	// Cluster, Namespace and Service that answer checks, such as etcd-sync-monitor. Required.
	Cluster            *Cluster
	Namespace, Service string
	// Port is the number or name of the service's port; "" is its only one.
	Port string
	// TLS asks by https; the API server does not verify the certificate then.
	TLS bool
	// Path of the check; "" is /check.
	Path string
	// Query of the request; "" is format=json.
	Query string
	// MaxAge is how old the result may be by what the answer says; 0 is DefaultMaxAge.
	MaxAge time.Duration
	// Judge reads an answer of another kind than that of drcheck's handler. It must not put more into the observation than may be shown. JudgeName says in the plan which judge it is; required with Judge.
	Judge     func(status int, body []byte) (failover.Observation, error)
	JudgeName string
	// Timeout bounds one request; 0 is the cluster's RequestTimeout. The runner's ObserveTimeout has to be longer.
	Timeout time.Duration
}

// DefaultMaxAge is how old the result of a check may be.
const DefaultMaxAge = 10 * time.Minute

// ReadCheck makes a gate that asks a check within the cluster through the API server's proxy of its service, so that it needs neither a route to the service's address nor a shell in a pod.
// It is passed when the answer says that nothing differs.
//
// Where it is not, and the last result is known, the observation states the loss, which a person can accept in an ungraceful plan.
func ReadCheck(cfg ReadCheckConfig) (failover.Step, error) {
	const kind = "ReadCheckConfig"
	var p problems
	p.common(kind, cfg.Cluster, cfg.Namespace, cfg.Timeout)
	p.object(kind+".Service", cfg.Service, validation.IsDNS1035Label)
	p.require(!strings.ContainsAny(cfg.Port, ":/?#% "), kind+".Port", fmt.Sprintf("%q is none", cfg.Port), "use a port's number or name")
	cfg.Path = cmp.Or(cfg.Path, "/check")
	p.require(strings.HasPrefix(cfg.Path, "/") && !strings.ContainsAny(cfg.Path, "?#"), kind+".Path", fmt.Sprintf("%q is no path", cfg.Path), "begin it with a slash, and put parameters into Query")
	_, err := url.ParseQuery(cfg.Query)
	p.require(err == nil, kind+".Query", "cannot be read", "use what stands after the question mark of an address")
	p.require(cfg.MaxAge >= 0, kind+".MaxAge", "is negative", "use a positive one, or 0 for the default")
	p.require((cfg.Judge == nil) == (cfg.JudgeName == ""), kind+".JudgeName", "and Judge go together", "set both, or none")
	if err := p.err(); err != nil {
		return nil, err
	}
	if cfg.Query == "" && cfg.Judge == nil {
		cfg.Query = "format=json"
	}
	cfg.MaxAge = cmp.Or(cfg.MaxAge, DefaultMaxAge)
	scheme := ""
	if cfg.TLS {
		scheme = "https"
	}
	service := cfg.Service
	if cfg.Port != "" || cfg.TLS {
		service = strings.TrimPrefix(scheme+":"+cfg.Service+":"+cfg.Port, ":")
	}
	where := "/api/v1/namespaces/" + cfg.Namespace + "/services/" + service + "/proxy" + cfg.Path
	if cfg.Query != "" {
		where += "?" + cfg.Query
	}
	judge := cfg.Judge
	if judge == nil {
		judge = func(status int, body []byte) (failover.Observation, error) {
			return judgeCheck(status, body, cfg.MaxAge)
		}
	}
	observe := func(ctx context.Context) (failover.Observation, error) {
		status, body, err := cfg.Cluster.ask(ctx, where, cfg.Timeout, maxAnswer, nil)
		if err != nil {
			return failover.Observation{}, fmt.Errorf("ask service %s in namespace %s: %w", cfg.Service, cfg.Namespace, err)
		}
		if o, refused := judgeRefusal(status, body); refused {
			o.Detail = fmt.Sprintf("service %s in namespace %s: %s", cfg.Service, cfg.Namespace, o.Detail)
			return o, nil
		}
		return judge(status, body)
	}
	return failover.Check(cmp.Or(cfg.Name, nameOf("check", cfg.Cluster.name, cfg.Namespace, cfg.Service)), observe, failover.Description{
		Action:    fmt.Sprintf("Does %s of service %s in namespace %s of %s say that nothing differs?", cfg.Path, cfg.Service, cfg.Namespace, cfg.Cluster.name),
		Commands:  []string{shell("kubectl", "get", "--raw", where)},
		Reference: cfg.Reference,
		Inputs:    cfg.Cluster.inputs(map[string]any{"path": where, "maxAge": cfg.MaxAge.String(), "judge": cfg.JudgeName}),
	}), nil
}

// ask gets a path from the API server. An answer of whatever status is no error; one of more than most bytes is.
func (c *Cluster) ask(ctx context.Context, path string, timeout time.Duration, most int64, header http.Header) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(timeout, c.request))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(serverURL(c.rest.Host), "/")+path, nil)
	if err != nil {
		return 0, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(answer.Body, most+1))
	if err == nil && int64(len(body)) > most {
		err = fmt.Errorf("the answer has more than %d bytes", most)
	}
	return answer.StatusCode, body, err
}

// serverURL gives an address a scheme, as client-go does.
func serverURL(host string) string {
	if !strings.Contains(host, "://") {
		return "https://" + host
	}
	return host
}

// judgeRefusal recognizes what the API server itself answers when it cannot ask the service.
func judgeRefusal(status int, body []byte) (failover.Observation, bool) {
	var refusal struct {
		Kind, APIVersion, Message string
		Reason                    string
	}
	if status < 300 || json.Unmarshal(body, &refusal) != nil || refusal.Kind != "Status" || refusal.APIVersion != "v1" {
		return failover.Observation{}, false
	}
	return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("the API server answers %d %s: %s", status, refusal.Reason, refusal.Message)}, true
}

// checkAnswer is what drcheck's handler answers; docs/drcheck-result.md says what the fields mean.
type checkAnswer struct {
	AgeSeconds *float64     `json:"ageSeconds"`
	Result     *checkResult `json:"result"`
	Error      *string      `json:"error"`
	Last       *checkResult `json:"last"`
}

type checkResult struct {
	Ended          time.Time `json:"ended"`
	SourceRevision int64     `json:"sourceRevision"`
	Equal          *bool     `json:"equal"`
	Count          *struct {
		Missed    int `json:"missed"`
		Surplus   int `json:"surplus"`
		Different int `json:"different"`
	} `json:"count"`
}

func (r checkResult) complete() bool {
	return r.Equal != nil && r.Count != nil && !r.Ended.IsZero() && r.Count.Missed >= 0 && r.Count.Surplus >= 0 && r.Count.Different >= 0
}

func (r checkResult) String() string {
	return fmt.Sprintf("%d missed, %d surplus and %d different keys at revision %d of the primary, %s", r.Count.Missed, r.Count.Surplus, r.Count.Different, r.SourceRevision, r.Ended.UTC().Format(time.RFC3339))
}

// judgeCheck reads an answer of drcheck's handler. Only what it counts is shown, not which keys.
func judgeCheck(status int, body []byte, maxAge time.Duration) (failover.Observation, error) {
	var a checkAnswer
	unread := func(why string) (failover.Observation, error) {
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("the check answers status %d and %d bytes: %s", status, len(body), why)}, nil
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&a); err != nil {
		return unread("that is no result of a check in JSON")
	}
	switch {
	case status == http.StatusOK && a.Result != nil && a.Error == nil && a.Result.complete():
		r, age := *a.Result, 0.0
		if a.AgeSeconds != nil {
			age = *a.AgeSeconds
		}
		differs := r.Count.Missed+r.Count.Surplus+r.Count.Different > 0
		switch {
		case differs == *r.Equal:
			return unread("its verdict and its counts contradict one another")
		case differs:
			return failover.Observation{State: failover.Blocked, Detail: "the clusters differ: " + r.String(), Loss: r.String()}, nil
		case age < 0 || age > maxAge.Seconds():
			return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("the result is from %s, older than %s", r.Ended.UTC().Format(time.RFC3339), maxAge),
				Loss: "what the primary wrote since it equaled the standby: " + r.String()}, nil
		}
		return failover.Observation{State: failover.Done, Detail: "nothing differs: " + r.String()}, nil
	case a.Result == nil && a.Error != nil && status >= 400:
		o := failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("the check could not be made (status %d)", status)}
		if a.Last != nil && a.Last.complete() {
			o.Detail += "; the last one found " + a.Last.String()
			o.Loss = "what the primary wrote after the last check that could be made, and what that found: " + a.Last.String()
		}
		return o, nil
	}
	return unread("that is no result of a check")
}
