package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// planFlags are the settings of encryption plan.
type planFlags struct {
	pairFlags
	primaryServers, standbyServers string
	path, dir                      string
	drop                           bool
	output                         mirrorflags.Choice
}

func newPlanFlags() *planFlags {
	f := &planFlags{}
	f.define()
	fs := f.settings.Flags
	fs.StringVar(&f.primaryServers, "primary-apiservers", "", "`names` of all apiservers of the primary, separated by commas")
	fs.StringVar(&f.standbyServers, "standby-apiservers", "", "`names` of all apiservers of the standby, separated by commas")
	fs.StringVar(&f.path, "path", "/etc/kubernetes/encryption/config.yaml", "`path` of --encryption-provider-config on the hosts of the apiservers")
	fs.StringVar(&f.dir, "dir", "", "`directory` for plan.json and the files of each phase; made if it is not there")
	fs.BoolVar(&f.drop, "drop", false, "end with the removal of the standby's own keys; keep them while there are backups that need them")
	outputVar(f.settings, &f.output)
	return f
}

func servers(list, path string) (all []encryption.Apiserver) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			all = append(all, encryption.Apiserver{Name: name, Path: path})
		}
	}
	return all
}

func runPlan(_ context.Context, c program.Console, args []string) error {
	f := newPlanFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	primary, standby, err := f.read(c)
	cfg := encryption.RolloutConfig{Merge: f.options(), Drop: f.drop,
		Primary: encryption.Cluster{Config: primary, Apiservers: servers(f.primaryServers, f.path)},
		Standby: encryption.Cluster{Config: standby, Apiservers: servers(f.standbyServers, f.path)}}
	for flag, list := range map[string][]encryption.Apiserver{"primary-apiservers": cfg.Primary.Apiservers, "standby-apiservers": cfg.Standby.Apiservers} {
		if len(list) == 0 {
			err = errors.Join(err, connect.Usage(f.settings.Where(flag), "is missing", "name every apiserver that uses the cluster's etcd: one that is forgotten loses values"))
		}
	}
	if err != nil {
		return err
	}
	plan, err := encryption.PlanRollout(cfg)
	if err != nil {
		return f.in(err)
	}
	files := map[string]string{} // by phase and cluster
	if f.dir != "" {
		if files, err = f.write(plan); err != nil {
			return err
		}
	}
	if f.output.String() == "json" {
		return printJSON(c.Out, plan)
	}
	return printPlan(c, plan, files)
}

// write writes the plan and its files.
func (f *planFlags) write(plan *encryption.Rollout) (map[string]string, error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, connect.Usage(f.settings.Where("dir"), err.Error(), "give a directory that this process may write to")
	}
	files := map[string]string{}
	text, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeNew(f.settings, "dir", filepath.Join(f.dir, "plan.json"), append(text, '\n'), f.replace); err != nil {
		return nil, err
	}
	for i, p := range plan.Phases {
		for _, file := range p.Files {
			id := p.Name + " " + string(file.Cluster)
			if files[id] != "" {
				continue
			}
			files[id] = filepath.Join(f.dir, fmt.Sprintf("%02d-%s-%s.yaml", i+1, p.Name, file.Cluster))
			if err := writeNew(f.settings, "dir", files[id], file.Data, f.replace); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// printPlan tells it to people.
func printPlan(c program.Console, plan *encryption.Rollout, files map[string]string) error {
	for _, n := range plan.Notices {
		fmt.Fprintln(c.Out, "notice:", n)
	}
	for i, p := range plan.Phases {
		fmt.Fprintf(c.Out, "\n%d. %s: %s\n   because %s\n", i+1, p.Name, p.Title, p.Why)
		for _, file := range p.Files {
			fmt.Fprintf(c.Out, "   %s %s  %s  %s", file.Cluster, file.Apiserver.Name, file.Apiserver.Path, file.Hash)
			if path := files[p.Name+" "+string(file.Cluster)]; path != "" {
				fmt.Fprintf(c.Out, "  from %s", path)
			}
			fmt.Fprintln(c.Out)
		}
		for _, r := range p.Relabels {
			fmt.Fprintf(c.Out, "   encryption relabel --from %s/%s --to %s/%s\n", r.From.Provider, r.From.Name, r.To.Provider, r.To.Name)
		}
		for _, v := range p.Verify {
			fmt.Fprintf(c.Out, "   verify: %s\n", v)
		}
	}
	_, err := fmt.Fprintln(c.Out, "\nBegin a phase only when all of the one before is verified.")
	return err
}
