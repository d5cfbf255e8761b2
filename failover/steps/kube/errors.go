package kube

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/understudy-dr/understudy/failover"
)

// problems are what is wrong with a configuration.
type problems []error

func (p *problems) require(ok bool, field, detail, hint string) {
	if !ok {
		*p = append(*p, &failover.Error{Kind: failover.ErrConfig, Detail: field + " " + detail, Hint: hint})
	}
}

func (p problems) err() error {
	if len(p) == 1 {
		return p[0]
	}
	return errors.Join(p...)
}

// common checks what the configurations of most steps have.
func (p *problems) common(kind string, c *Cluster, namespace string, timeout time.Duration) {
	p.require(c != nil, kind+".Cluster", "is nil", "make one with NewCluster")
	p.require(namespace != "", kind+".Namespace", "is empty", "name the namespace: a step acts in one")
	if namespace != "" {
		p.object(kind+".Namespace", namespace, validation.IsDNS1123Label)
	}
	p.require(timeout >= 0, kind+".Timeout", "is negative", "use a positive one, or 0 for the default")
}

// object checks the name of an object.
func (p *problems) object(field, name string, check func(string) []string) {
	if why := check(name); len(why) > 0 {
		p.require(false, field, fmt.Sprintf("%q is no name in Kubernetes: %s", name, why[0]), "give the name of an object that is there")
	}
}

// failure is an error of a step that waiting does not heal, though another attempt may.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func failed(err error) bool {
	var f failure
	return errors.As(err, &f)
}

// explain says what was asked for, and marks what cannot be healed by trying again.
func explain(err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", fmt.Sprintf(what, args...), err)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), apierrors.IsBadRequest(err), apierrors.IsInvalid(err), apierrors.IsMethodNotSupported(err):
		return failover.Permanent(err)
	}
	return err
}

// passing reports whether an error may pass by itself: a server that is away or busy.
func passing(err error) bool {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), apierrors.IsBadRequest(err), apierrors.IsInvalid(err), apierrors.IsMethodNotSupported(err):
		return false
	case errors.Is(err, context.Canceled):
		return true // of the step's own context: await looks at that
	}
	return !errors.Is(err, failover.ErrReadOnly) && !errors.Is(err, failover.ErrJournal) && !errors.Is(err, failover.ErrCopy) && !errors.Is(err, failover.ErrBusy) && !errors.Is(err, failover.ErrConfig)
}

// plain is what a shell takes as one word.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shell is a command line that a person could type.
func shell(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = w; !plain.MatchString(w) {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// nameOf makes a part of a step's name from what may not be one.
func nameOf(parts ...string) string {
	text := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_/:@", r) {
			return r
		}
		return '-'
	}, strings.Join(parts, "/"))
	for strings.Contains(text, "--") {
		text = strings.ReplaceAll(text, "--", "-")
	}
	return strings.TrimRight(text[:min(len(text), 128)], ".-_/:@")
}

// listed names some of many things.
func listed(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
