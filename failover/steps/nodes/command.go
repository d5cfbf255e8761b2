package nodes

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// CommandConfig is a step that runs a command.
type CommandConfig struct {
	// Name is the step's; "" is "command/" and the host's name.
	Name string
	// Action says what the step does, in a sentence. Required.
	Action    string
	Reference string
	// Host runs the commands. Required.
	Host Host
	// Check looks, without changing anything, whether the effect of Do is there: its status says which state that is. Required.
	Check Command
	// Exit is what the status of Check means; nil is Done for 0 and Pending for 1. Another status is an error. Of Blocked the first line that Check prints says why.
	Exit map[int]failover.State
	// Do brings the effect about. It may be run again after an interruption. Required.
	Do Command
	// Undo takes the effect back, to what was there before; nil makes the step a point of no return.
	Undo *Command
	// UndoAction says what Undo does, in a sentence; "" shows its command.
	UndoAction string
	// Masker is for what the commands print, and for their arguments; nil masks what can be told by its form.
	Masker *Masker

	Approval failover.Approval
	Timeout  time.Duration
	Retry    failover.Retry
}

// CommandStep makes a step of commands. The plan's hash covers what they are, their standard input included; what they print is noted in the journal, masked.
// Errors match failover.ErrConfig.
func CommandStep(cfg CommandConfig) (failover.Step, error) {
	var errs []error
	bad := func(field, detail, hint string) {
		errs = append(errs, badConfig("CommandConfig."+field+" "+detail, hint))
	}
	if cfg.Host == nil {
		bad("Host", "is missing", "give the host that runs the commands")
	}
	if cfg.Action == "" {
		bad("Action", "is missing", "say what the step does, in a sentence")
	}
	commands := []namedCommand{{"Check", cfg.Check}, {"Do", cfg.Do}}
	if cfg.Undo != nil {
		undo := *cfg.Undo
		cfg.Undo = &undo
		commands = append(commands, namedCommand{"Undo", undo})
	}
	inputs := map[string]any{}
	for _, c := range commands {
		var e *Error
		if err := c.cmd.check(""); errors.As(err, &e) {
			bad(c.field, "cannot be run: "+e.Detail, e.Hint)
		}
		inputs[strings.ToLower(c.field)] = describe(c.cmd, cfg.Masker)
	}
	exit := map[int]failover.State{0: failover.Done, 1: failover.Pending}
	if cfg.Exit != nil {
		exit = map[int]failover.State{}
		done := false
		for status, state := range cfg.Exit {
			switch state {
			case failover.Done, failover.Pending, failover.Partial, failover.Blocked:
			default:
				bad("Exit", fmt.Sprintf("has %q for status %d", state, status), "use a state of package failover")
			}
			exit[status] = state
			done = done || state == failover.Done
		}
		if !done {
			bad("Exit", "has no status for done", "say which one means that the effect is there")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "command/" + stepPart(cfg.Host)
	}
	inputs["host"], inputs["exit"] = cfg.Host.Name(), exit
	h, m := cfg.Host, cfg.Masker
	shown := func(cmd Command) string { return m.Mask(cmd.String()) }
	f := failover.Funcs{
		Name: cfg.Name, Approval: cfg.Approval, Timeout: cfg.Timeout, Retry: cfg.Retry,
		Description: failover.Description{Action: cfg.Action, Commands: []string{"on " + h.Name() + ": " + shown(cfg.Do)}, Reference: cfg.Reference, Inputs: inputs, Undo: cfg.UndoAction},
		Observe: func(ctx context.Context) (failover.Observation, error) {
			res, err := h.Run(ctx, cfg.Check)
			if err != nil {
				return failover.Observation{}, err
			}
			state, known := exit[res.Exit]
			if !known {
				return failover.Observation{}, fmt.Errorf("%s: the check ended with status %d, which says nothing about the effect: %s", h.Name(), res.Exit, m.line(res))
			}
			detail, _, _ := strings.Cut(m.output(res), "\n")
			if detail == "" {
				detail = fmt.Sprintf("the check on %s ended with status %d", h.Name(), res.Exit)
			}
			return failover.Observation{State: state, Detail: detail}, nil
		},
		Do: func(ctx context.Context) error {
			_, err := must(ctx, h, cfg.Do, m)
			return err
		},
	}
	if cfg.Undo != nil {
		if cfg.UndoAction == "" {
			f.Description.Undo = "Run on " + h.Name() + ": " + shown(*cfg.Undo)
		}
		f.Undo = func(ctx context.Context) error {
			_, err := must(ctx, h, *cfg.Undo, m)
			return err
		}
	}
	return f.Step(), nil
}

type namedCommand struct {
	field string
	cmd   Command
}

// commandInputs are what a command is, as the plan's hash covers it.
type commandInputs struct {
	Args    []string `json:"args"`
	Root    bool     `json:"root,omitempty"`
	Timeout string   `json:"timeout,omitempty"`
	// Hash is that of arguments which were masked, and Stdin that of the standard input.
	Hash  string `json:"argsHash,omitempty"`
	Stdin string `json:"stdinHash,omitempty"`
}

func describe(cmd Command, m *Masker) commandInputs {
	in := commandInputs{Root: cmd.Root}
	if cmd.Timeout > 0 {
		in.Timeout = cmd.Timeout.String()
	}
	masked := false
	for i, arg := range cmd.Args {
		shown := m.Mask(arg)
		// A flag may have its secret in the next argument.
		if i > 0 && shown == arg {
			if both := m.Mask(cmd.Args[i-1] + " " + arg); strings.HasPrefix(cmd.Args[i-1], "-") && strings.HasSuffix(both, Masked) && !strings.HasSuffix(cmd.Args[i-1], Masked) {
				shown = Masked
			}
		}
		masked = masked || shown != arg
		in.Args = append(in.Args, shown)
	}
	if masked {
		in.Hash = sum([]byte(words(cmd.Args, quote)))
	}
	if len(cmd.Stdin) > 0 {
		in.Stdin = sum(cmd.Stdin)
	}
	return in
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
