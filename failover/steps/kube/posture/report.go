package posture

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Severity is how bad a finding is.
type Severity string

const (
	// Info: what an operator should know; nothing has to be done.
	Info Severity = "info"
	// Warning: something will not work after a switch, or nobody can say whether it will.
	Warning Severity = "warning"
	// Fatal: mirroring, or a switch, breaks the standby or destroys data.
	Fatal Severity = "fatal"
)

func (s Severity) rank() int { return slices.Index([]Severity{Info, Warning, Fatal}, s) }

// Names of checks, as findings carry them and GateConfig.Accept takes them.
const (
	CheckControllers     = "controllers"
	CheckServiceCIDR     = "service-cidr"
	CheckNodePorts       = "node-ports"
	CheckServiceAccounts = "service-accounts"
	CheckVersion         = "version"
	CheckEncryption      = "encryption"
	CheckRevision        = "revision"
	CheckAPIServices     = "apiservices"
	CheckWebhooks        = "webhooks"
	CheckVolumes         = "volumes"
	CheckDefinitions     = "definitions"
	CheckRootCA          = "root-ca"
)

// Checks lists all of them, in the order of a report.
func Checks() []string {
	return []string{CheckControllers, CheckServiceCIDR, CheckNodePorts, CheckServiceAccounts, CheckVersion, CheckEncryption, CheckRevision, CheckAPIServices, CheckWebhooks, CheckVolumes, CheckDefinitions, CheckRootCA}
}

// Finding is one thing that is not as it should be, or that an operator should know.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Subject is what it is about: an object, several by name, or a cluster.
	Subject     string `json:"subject"`
	Problem     string `json:"problem"`
	Consequence string `json:"consequence"`
	Remedy      string `json:"remedy"`
	// NotLooked is set if the check could not be made: Problem says why.
	NotLooked bool `json:"notLooked,omitempty"`
}

// Controllers says what runs on the standby besides its API servers.
type Controllers string

const (
	// ControllersRunning: the standby is alive, its controllers act on what arrives.
	ControllersRunning Controllers = "running"
	// ControllersStopped: the standby stores and serves; its controllers start at promotion.
	ControllersStopped Controllers = "stopped"
	// ControllersUnknown: it could not be looked at.
	ControllersUnknown Controllers = "unknown"
)

// Report is the answer of a check. The names of its fields in JSON stay.
type Report struct {
	At time.Time `json:"at"`
	// Controllers is the posture of the standby.
	Controllers Controllers `json:"controllers"`
	// Clean names the checks that were made and found nothing.
	Clean []string `json:"clean"`
	// Findings are sorted by severity, the worst first, and within that by check.
	Findings []Finding `json:"findings"`
}

// Worst is the highest severity of the findings, "" if there are none.
func (r *Report) Worst() (worst Severity) {
	for _, f := range r.Findings {
		if f.Severity.rank() > worst.rank() {
			worst = f.Severity
		}
	}
	return worst
}

// WriteJSON writes the report as one JSON object, indented.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "posture of the standby at %s: controllers %s, %d findings\n", r.At.UTC().Format(time.RFC3339), r.Controllers, len(r.Findings))
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n%s %s: %s\n  %s\n", strings.ToUpper(string(f.Severity)), f.Check, f.Subject, f.Problem)
		if f.Consequence != "" {
			fmt.Fprintf(&b, "  then: %s\n", f.Consequence)
		}
		if f.Remedy != "" {
			fmt.Fprintf(&b, "  do:   %s\n", f.Remedy)
		}
	}
	fmt.Fprintf(&b, "\nnothing found by: %s\n", cmp.Or(strings.Join(r.Clean, ", "), "no check"))
	_, err := io.WriteString(w, b.String())
	return err
}

// several names up to five of many.
func several(kind string, names []string) string {
	slices.Sort(names)
	const shown = 5
	if len(names) == 1 {
		return kind + " " + names[0]
	}
	text := fmt.Sprintf("%d of kind %s: %s", len(names), kind, strings.Join(names[:min(shown, len(names))], ", "))
	if len(names) > shown {
		text += fmt.Sprintf(" and %d more", len(names)-shown)
	}
	return text
}
