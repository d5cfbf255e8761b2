package glusterfs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Quorum are the quorum options of a volume: cluster.quorum-type and cluster.quorum-count; "" is an option that is not set.
type Quorum struct {
	Type  string `json:"type,omitempty"`
	Count string `json:"count,omitempty"`
}

func (q Quorum) String() string {
	show := func(s string) string {
		if s == "" {
			return "not set"
		}
		return s
	}
	return "type " + show(q.Type) + ", count " + show(q.Count)
}

const (
	optionType  = "cluster.quorum-type"
	optionCount = "cluster.quorum-count"
)

// answer is what gluster --xml prints.
type answer struct {
	XMLName xml.Name `xml:"cliOutput"`
	Ret     *int     `xml:"opRet"`
	Err     string   `xml:"opErrstr"`
	Volumes *struct {
		Volume []struct {
			Name    string `xml:"name"`
			Options []struct {
				Name  string `xml:"name"`
				Value string `xml:"value"`
			} `xml:"options>option"`
		} `xml:"volume"`
	} `xml:"volInfo>volumes"`
	List *struct {
		Volume []string `xml:"volume"`
	} `xml:"volList"`
}

// volumeName is what gluster accepts.
var volumeName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_-]{0,254}$`)

func parse(text string) (answer, error) {
	var a answer
	if err := xml.Unmarshal([]byte(text), &a); err != nil {
		return a, fmt.Errorf("what gluster --xml printed cannot be read: %w", err)
	}
	if a.Ret == nil {
		return a, errors.New("what gluster --xml printed has no opRet")
	}
	if *a.Ret != 0 {
		return a, fmt.Errorf("gluster refuses: %s", strings.TrimSpace(a.Err))
	}
	return a, nil
}

// parseInfo reads the answer to volume info: only options that are set are in it.
func parseInfo(text string) (map[string]Quorum, error) {
	a, err := parse(text)
	if err != nil {
		return nil, err
	}
	if a.Volumes == nil {
		return nil, errors.New("what gluster --xml volume info printed has no volumes")
	}
	all := map[string]Quorum{}
	for _, v := range a.Volumes.Volume {
		if _, twice := all[v.Name]; twice || !volumeName.MatchString(v.Name) {
			return nil, fmt.Errorf("gluster lists a volume %q, which is twice there or no name", v.Name)
		}
		var q Quorum
		for _, o := range v.Options {
			switch o.Name {
			case optionType:
				q.Type = o.Value
			case optionCount:
				q.Count = o.Value
			}
		}
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		all[v.Name] = q
	}
	return all, nil
}

// parseList reads the answer to volume list.
func parseList(text string) ([]string, error) {
	a, err := parse(text)
	if err != nil {
		return nil, err
	}
	if a.List == nil {
		return nil, errors.New("what gluster --xml volume list printed has no list")
	}
	for _, name := range a.List.Volume {
		if !volumeName.MatchString(name) {
			return nil, fmt.Errorf("gluster lists a volume %q, which is no name", name)
		}
	}
	return a.List.Volume, nil
}

var count = regexp.MustCompile(`^[1-9][0-9]{0,5}$`)

func (q Quorum) check() error {
	switch q.Type {
	case "", "none", "auto", "fixed":
	default:
		return fmt.Errorf("%s is %q: want none, auto or fixed", optionType, q.Type)
	}
	if q.Count != "" && !count.MatchString(q.Count) {
		return fmt.Errorf("%s is %q: want a number from 1", optionCount, q.Count)
	}
	return nil
}
