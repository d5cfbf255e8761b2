package posture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// fit is a standby without a finding but the posture itself.
func fit() *facts {
	one := func(revision int64) side {
		return side{
			minor: 36, version: "v1.36.3", now: noon, leases: map[string]lease{}, cidrs: []string{"10.96.0.0/12"}, addresses: []string{"10.96.0.1"},
			nodePorts: &ports{30000, 32767}, issuer: "https://kubernetes.default.svc", keys: map[string]bool{"k": true}, revision: revision,
			services: map[string]bool{}, definitions: map[string]definition{}, rootCA: "c",
		}
	}
	return &facts{primary: one(1000), standby: one(1000 + DefaultRevisionMargin), missing: map[string]missing{}}
}

// TestFindings changes one fact of a fit standby at a time, and has what is found besides the posture, as "severity check".
func TestFindings(t *testing.T) {
	renewed := func(seconds int) lease {
		return lease{"host_uid", noon.Add(-time.Duration(seconds) * time.Second), 15 * time.Second}
	}
	reference := func(ignored, mirrored bool) reference {
		return reference{kind: "K", name: "n", namespace: "cpaas-system", service: "hook", ignored: ignored, mirrored: mirrored}
	}
	volume := func(reclaim, driver string, mirrored, claimMirrored bool) []volume {
		return []volume{{name: "pv", driver: driver, reclaim: reclaim, claimNamespace: "cpaas-system", claim: "c", mirrored: mirrored, claimMirrored: claimMirrored}}
	}
	for name, c := range map[string]struct {
		change      func(f *facts)
		want        string // "" is nothing
		controllers Controllers
	}{
		"fit":          {func(f *facts) {}, "info controllers", ControllersStopped},
		"manager runs": {func(f *facts) { f.standby.leases["kube-controller-manager"] = renewed(2) }, "warning controllers", ControllersRunning},
		"both run": {func(f *facts) {
			f.standby.leases["kube-controller-manager"], f.standby.leases["kube-scheduler"] = renewed(2), renewed(1)
		}, "warning controllers, info controllers", ControllersRunning},
		"scheduler runs":             {func(f *facts) { f.standby.leases["kube-scheduler"] = renewed(15) }, "warning controllers", ControllersRunning},
		"manager ran":                {func(f *facts) { f.standby.leases["kube-controller-manager"] = renewed(16) }, "info controllers", ControllersStopped},
		"manager gave its lease up":  {func(f *facts) { f.standby.leases["kube-controller-manager"] = lease{"", noon, 15 * time.Second} }, "info controllers", ControllersStopped},
		"primary's manager runs":     {func(f *facts) { f.primary.leases["kube-controller-manager"] = renewed(2) }, "info controllers", ControllersStopped},
		"other CIDR":                 {func(f *facts) { f.standby.cidrs = []string{"10.97.0.0/16"} }, "fatal service-cidr", ""},
		"second CIDR of the primary": {func(f *facts) { f.primary.cidrs = append(f.primary.cidrs, "fd00::/108") }, "fatal service-cidr", ""},
		"second CIDR that arrives": {func(f *facts) {
			f.primary.cidrs = append(f.primary.cidrs, "fd00::/108")
			f.primary.arriving = []string{"fd00::/108"}
		}, "", ""},
		"second CIDR of the standby": {func(f *facts) { f.standby.cidrs = append(f.standby.cidrs, "fd00::/108") }, "info service-cidr", ""},
		"no CIDRs, other address":    {func(f *facts) { f.primary.cidrs, f.standby.addresses = nil, []string{"10.97.0.1"} }, "warning service-cidr", ""},
		"no CIDRs, same address":     {func(f *facts) { f.primary.cidrs = nil }, "", ""},
		"node ports begin later":     {func(f *facts) { f.standby.nodePorts = &ports{30001, 32767} }, "fatal node-ports", ""},
		"node ports end earlier":     {func(f *facts) { f.standby.nodePorts = &ports{30000, 32766} }, "fatal node-ports", ""},
		"more node ports":            {func(f *facts) { f.standby.nodePorts = &ports{20000, 40000} }, "", ""},
		"other issuer":               {func(f *facts) { f.standby.issuer = "https://standby" }, "warning service-accounts", ""},
		"other keys":                 {func(f *facts) { f.standby.keys = map[string]bool{"s": true} }, "warning service-accounts", ""},
		"both keys":                  {func(f *facts) { f.standby.keys = map[string]bool{"s": true, "k": true} }, "", ""},
		"older":                      {func(f *facts) { f.standby.minor = 35 }, "fatal version", ""},
		"newer":                      {func(f *facts) { f.standby.minor = 37 }, "", ""},
		"unreadable":                 {func(f *facts) { f.unreadable = 1 }, "fatal encryption", ""},
		"KMS away":                   {func(f *facts) { f.unknown = 1 }, "warning encryption", ""},
		"one revision short":         {func(f *facts) { f.standby.revision-- }, "info revision", ""},
		"as many fillers as may be":  {func(f *facts) { f.standby.revision -= DefaultMaxFillers }, "info revision", ""},
		"one filler too many":        {func(f *facts) { f.standby.revision -= DefaultMaxFillers + 1 }, "warning revision", ""},
		"APIService without service": {func(f *facts) { f.primary.apiServices = append(f.primary.apiServices, reference(false, true)) }, "fatal apiservices", ""},
		"APIService not mirrored":    {func(f *facts) { f.primary.apiServices = append(f.primary.apiServices, reference(false, false)) }, "", ""},
		"webhook without service":    {func(f *facts) { f.primary.webhooks = append(f.primary.webhooks, reference(false, true)) }, "fatal webhooks", ""},
		"webhook that may fail":      {func(f *facts) { f.primary.webhooks = append(f.primary.webhooks, reference(true, true)) }, "warning webhooks", ""},
		"service of the standby": {func(f *facts) {
			f.primary.webhooks = append(f.primary.webhooks, reference(false, true))
			f.standby.services["cpaas-system/hook"] = true
		}, "", ""},
		"volume to be deleted":        {func(f *facts) { f.primary.volumes = volume("Delete", "csi.example.com", true, false) }, "fatal volumes", ""},
		"volume of no driver":         {func(f *facts) { f.primary.volumes = volume("Delete", "", true, false) }, "warning volumes", ""},
		"volume to be retained":       {func(f *facts) { f.primary.volumes = volume("Retain", "csi.example.com", true, false) }, "info volumes", ""},
		"volume with its claim":       {func(f *facts) { f.primary.volumes = volume("Delete", "csi.example.com", true, true) }, "", ""},
		"volume that is not mirrored": {func(f *facts) { f.primary.volumes = volume("Delete", "csi.example.com", false, false) }, "", ""},
		"definition of old versions": {func(f *facts) {
			f.primary.definitions["w"] = definition{[]string{"v1", "v2"}, []string{"v1", "v2"}, false, true}
			f.standby.definitions["w"] = definition{[]string{"v1"}, []string{"v1"}, false, true}
		}, "fatal definitions", ""},
		"definition of all versions": {func(f *facts) {
			f.primary.definitions["w"] = definition{[]string{"v1", "v2"}, []string{"v1"}, false, true}
			f.standby.definitions["w"] = definition{[]string{"v1"}, []string{"v1"}, false, true}
		}, "", ""},
		"definition that is replaced": {func(f *facts) {
			f.primary.definitions["w"] = definition{[]string{"v2"}, []string{"v2"}, true, true}
			f.standby.definitions["w"] = definition{[]string{"v1", "v2"}, []string{"v1", "v2"}, true, true}
		}, "fatal definitions", ""},
		"definition that arrives":   {func(f *facts) { f.primary.definitions["w"] = definition{[]string{"v1"}, []string{"v1"}, true, true} }, "", ""},
		"objects without":           {func(f *facts) { f.primary.definitions["w"] = definition{[]string{"v1"}, []string{"v1"}, false, true} }, "warning definitions", ""},
		"kind that is not mirrored": {func(f *facts) { f.primary.definitions["w"] = definition{[]string{"v1"}, []string{"v1"}, false, false} }, "", ""},
		"other CA":                  {func(f *facts) { f.standby.rootCA = "d" }, "", ""},
		"other CA, tokens":          {func(f *facts) { f.standby.rootCA = "d"; f.primary.tokens = 3 }, "info root-ca", ""},
		"not asked for":             {func(f *facts) { f.missing[CheckVolumes] = missing{why: "w"} }, "info volumes", ""},
		"refused":                   {func(f *facts) { f.missing[CheckControllers] = missing{why: "w", failed: true} }, "warning controllers", ControllersUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			f := fit()
			c.change(f)
			cfg, err := Config{Standby: &rest.Config{Host: "http://127.0.0.1:1"}}.complete()
			if err != nil {
				t.Fatal(err)
			}
			r := report(f, cfg, noon)
			var got []string
			for _, finding := range r.Findings {
				for field, text := range map[string]string{"Subject": finding.Subject, "Problem": finding.Problem, "Consequence": finding.Consequence, "Remedy": finding.Remedy} {
					if text == "" {
						t.Errorf("%s: no %s", finding.Check, field)
					}
				}
				if c.controllers != "" || finding.Check != CheckControllers {
					got = append(got, string(finding.Severity)+" "+finding.Check)
				}
				if slices.Contains(r.Clean, finding.Check) {
					t.Errorf("%s has a finding and is clean", finding.Check)
				}
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if c.controllers != "" && r.Controllers != c.controllers {
				t.Errorf("controllers %s, want %s", r.Controllers, c.controllers)
			}
		})
	}
}

func TestReportReads(t *testing.T) {
	f := fit()
	f.standby.minor, f.standby.version = 30, "v1.30.1"
	for i := range 7 {
		f.primary.volumes = append(f.primary.volumes, volume{name: fmt.Sprintf("pv-%d", i), driver: "d", reclaim: "Delete", claimNamespace: "n", claim: "c", mirrored: true})
	}
	cfg, _ := Config{Standby: &rest.Config{Host: "http://127.0.0.1:1"}}.complete()
	r := report(f, cfg, noon)
	var text, asJSON bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"posture of the standby at 2026-03-04T12:00:00Z: controllers stopped, 3 findings\n",
		"\nFATAL version: API server of the standby\n  it is v1.30.1, and the primary's v1.36.3\n  then: a value in a version",
		"\n  do:   upgrade the standby first",
		"7 of kind PersistentVolume: pv-0, pv-1, pv-2, pv-3, pv-4 and 2 more",
		"nothing found by: service-cidr, node-ports, service-accounts, encryption, revision, apiservices, webhooks, definitions, root-ca\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	if strings.Index(text.String(), "FATAL") > strings.Index(text.String(), "INFO") {
		t.Error("the worst does not come first")
	}
	if err := r.WriteJSON(&asJSON); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(back.Findings, r.Findings) || !slices.Equal(back.Clean, r.Clean) || back.Controllers != r.Controllers || r.Worst() != Fatal {
		t.Errorf("read back: %+v", back)
	}
	for _, name := range []string{`"check"`, `"severity"`, `"subject"`, `"problem"`, `"consequence"`, `"remedy"`, `"controllers"`, `"clean"`, `"at"`} {
		if !strings.Contains(asJSON.String(), name) {
			t.Errorf("no %s in %s", name, asJSON.String())
		}
	}
}

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]string{"30000-32767": "30000-32767", "30000+2767": "30000-32767", "1-65535": "1-65535", "80-80": "80-80"} {
		if got, err := parsePorts(text); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "30000", "0-10", "10-65536", "20-10", "a-b", "1-2-3", "1-2 ", " 1-2", "-1-2", "1+70000", "01-2", "1++2"} {
		if got, err := parsePorts(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	f.Add("30000-32767")
	f.Add("1+2")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePorts(text)
		if err != nil {
			return
		}
		if p.first < 1 || p.first > p.last || p.last > 65535 {
			t.Errorf("%q is taken for %v", text, p)
		}
		if again, err := parsePorts(p.String()); err != nil || again != p {
			t.Errorf("%q becomes %v, %v", p, again, err)
		}
	})
}

func TestJudge(t *testing.T) {
	r := &Report{Controllers: ControllersStopped, Findings: []Finding{
		{Check: CheckVolumes, Severity: Fatal, Subject: "PersistentVolume pv", Problem: "p"},
		{Check: CheckWebhooks, Severity: Fatal, Subject: "K a", Problem: "p"},
		{Check: CheckWebhooks, Severity: Warning, Subject: "K b", Problem: "p"},
		{Check: CheckVersion, Severity: Warning, Subject: "this check", Problem: "not looked at", NotLooked: true},
		{Check: CheckControllers, Severity: Info, Subject: "c", Problem: "p"},
	}}
	for _, c := range []struct {
		name            string
		block           Severity
		accept, require []string
		want            []string // subjects that block
	}{
		{"by default", Fatal, nil, nil, []string{"volumes/PersistentVolume pv", "webhooks/K a"}},
		{"accepted", Fatal, []string{"volumes", "webhooks/K a"}, nil, nil},
		{"accepted in part", Warning, []string{"volumes", "webhooks/K b"}, nil, []string{"webhooks/K a", "version/this check"}},
		{"required", Fatal, []string{"volumes", "webhooks"}, []string{"version", "controllers"}, []string{"version/this check"}},
		{"required though accepted", Fatal, []string{"volumes", "webhooks", "version"}, []string{"version"}, []string{"version/this check"}},
		{"all", Info, nil, nil, []string{"volumes/PersistentVolume pv", "webhooks/K a", "webhooks/K b", "version/this check", "controllers/c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &GateConfig{Block: c.block, Accept: c.accept, Require: c.require}
			o := cfg.judge(r)
			if (o.State == failover.Done) != (len(c.want) == 0) || o.State != failover.Done && o.State != failover.Blocked {
				t.Errorf("%+v", o)
			}
			for _, f := range r.Findings {
				subject := f.Check + "/" + f.Subject
				if got, want := strings.Contains(o.Detail, subject), slices.Contains(c.want, subject); got != want {
					t.Errorf("%s blocks: %v, want %v", subject, got, want)
				}
			}
		})
	}
}
