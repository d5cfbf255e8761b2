package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
)

// Member controls a member's process and its files, as its machine runs it. Its methods are idempotent, return soon after their context has ended, and are called one after another.
type Member interface {
	// Describe says what the member is, for plans. It contacts nothing.
	Describe() Control
	// Running reports whether the process runs, or is about to: whether or not it serves.
	Running(ctx context.Context) (bool, error)
	// Stop returns once the process has ended, and stays so.
	Stop(ctx context.Context) error
	// Settings are those that the next start uses.
	Settings(ctx context.Context) (Settings, error)
	// Configure makes the next start use the settings, exactly these, and changes nothing else. It is called while the process is stopped.
	Configure(ctx context.Context, s Settings) error
	// Start begins to start the process. It does not wait until it serves.
	Start(ctx context.Context) error
	// MoveData moves the data of the stopped member aside and keeps it under the label, of letters, digits and '-'. Without data, or where data has that label already and the member has none, it does nothing.
	MoveData(ctx context.Context, label string) error
	// RestoreData moves back what MoveData has moved aside under the label. Where nothing has that label it does nothing.
	RestoreData(ctx context.Context, label string) error
}

// Settings are the settings of etcd that change when a cluster is recovered. The zero value of each is "not set".
type Settings struct {
	Name                string `json:"name,omitempty"`                // --name
	InitialCluster      string `json:"initialCluster,omitempty"`      // --initial-cluster: name=peer URL, comma-separated
	InitialClusterState string `json:"initialClusterState,omitempty"` // --initial-cluster-state: "new" or "existing"
	ForceNewCluster     bool   `json:"forceNewCluster,omitempty"`     // --force-new-cluster
}

// settingValue is what can stand in environment files, manifests and shells without quotes.
var settingValue = regexp.MustCompile(`^[A-Za-z0-9._:/=,\[\]%@+-]*$`)

func (s Settings) check() error {
	for _, f := range []struct{ field, value string }{{"Name", s.Name}, {"InitialCluster", s.InitialCluster}, {"InitialClusterState", s.InitialClusterState}} {
		if !settingValue.MatchString(f.value) {
			return fmt.Errorf("setting %s has characters that would need quotes", f.field)
		}
	}
	return nil
}

// Control describes a Member: what decides how it is controlled, and what a person would type instead.
type Control struct {
	// Inputs go into the plan's hash. They must marshal to JSON and hold no secrets.
	Inputs any
	// Stop, Start and MoveData are commands, MoveData with the label LABEL; empty where there are none.
	Stop, Start, MoveData []string
	// Set gives the commands for changed settings, only those that are named; nil where there are none.
	Set func(set map[Setting]string) []string
}

// Setting names a setting, as etcd's flag does without its dashes.
type Setting string

// The settings.
const (
	SettingName                Setting = "name"
	SettingInitialCluster      Setting = "initial-cluster"
	SettingInitialClusterState Setting = "initial-cluster-state"
	SettingForceNewCluster     Setting = "force-new-cluster"
)

// allSettings in the order in which they are written.
var allSettings = []Setting{SettingName, SettingInitialCluster, SettingInitialClusterState, SettingForceNewCluster}

// values has each setting's text; "" is "not set".
func (s Settings) values() map[Setting]string {
	v := map[Setting]string{SettingName: s.Name, SettingInitialCluster: s.InitialCluster, SettingInitialClusterState: s.InitialClusterState}
	if s.ForceNewCluster {
		v[SettingForceNewCluster] = "true"
	}
	return v
}

func (c Control) set(set map[Setting]string) []string {
	if c.Set == nil {
		return nil
	}
	return c.Set(set)
}

// MemberFuncs makes a Member from funcs: for supervisors of one's own, and embedded members. All are required but Control.
type MemberFuncs struct {
	Control         Control
	IsRunning       func(ctx context.Context) (bool, error)
	StopProcess     func(ctx context.Context) error
	ReadSettings    func(ctx context.Context) (Settings, error)
	WriteSettings   func(ctx context.Context, s Settings) error
	StartProcess    func(ctx context.Context) error
	MoveDataAside   func(ctx context.Context, label string) error
	RestoreDataBack func(ctx context.Context, label string) error
}

// New checks that nothing is missing.
func (f MemberFuncs) New() (Member, error) {
	var errs []error
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"IsRunning", f.IsRunning != nil}, {"StopProcess", f.StopProcess != nil}, {"ReadSettings", f.ReadSettings != nil}, {"WriteSettings", f.WriteSettings != nil},
		{"StartProcess", f.StartProcess != nil}, {"MoveDataAside", f.MoveDataAside != nil}, {"RestoreDataBack", f.RestoreDataBack != nil},
	} {
		if !field.set {
			errs = append(errs, bad("MemberFuncs."+field.name+" is nil", "set it"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return funcMember{f}, nil
}

type funcMember struct{ f MemberFuncs }

func (m funcMember) Describe() Control                              { return m.f.Control }
func (m funcMember) Running(ctx context.Context) (bool, error)      { return m.f.IsRunning(ctx) }
func (m funcMember) Stop(ctx context.Context) error                 { return m.f.StopProcess(ctx) }
func (m funcMember) Settings(ctx context.Context) (Settings, error) { return m.f.ReadSettings(ctx) }
func (m funcMember) Start(ctx context.Context) error                { return m.f.StartProcess(ctx) }
func (m funcMember) Configure(ctx context.Context, s Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	return m.f.WriteSettings(ctx, s)
}
func (m funcMember) MoveData(ctx context.Context, label string) error {
	return m.f.MoveDataAside(ctx, label)
}
func (m funcMember) RestoreData(ctx context.Context, label string) error {
	return m.f.RestoreDataBack(ctx, label)
}

// labelLayout names moved data by the day and second at which it was moved.
const labelLayout = "20060102-150405"
