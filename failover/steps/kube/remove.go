package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/understudy-dr/understudy/failover"
)

// RemoveConfig is the configuration of Remove. Each field but Name, Reference, Namespace, IfInstalled and Timeout is required.
type RemoveConfig struct {
	// Name of the step; "" is remove/, the cluster, the namespace, the kind and the object.
	Name string
	// Reference says where the step comes from.
	Reference string
	// Cluster that the object is in.
	Cluster *Cluster
	// Namespace of the object; "" is a kind without namespaces.
	Namespace string
	// APIVersion and Kind of the object, such as "apps/v1" and "Deployment". No Secrets.
	APIVersion, Kind string
	// Object is its name.
	Object string
	// Manifest is the path of the file in which the object is kept for Undo, readable by its owner alone. It stays out of the journal because it may hold passwords, such as in a container's
	// environment. Its folder exists, and outlives the plan. One file is for one object.
	Manifest string
	// IfInstalled makes the step done where there is no such object. Without it that blocks the step.
	IfInstalled bool
	// Timeout is how long one attempt may take, finalizers included; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// Remove makes a step that deletes an object, such as the one by which a plugin is installed, and waits until it and what depends on it in the foreground is gone. Undo makes it anew from the kept manifest,
// without its status and under another UID; owners that are gone would take it with them, so then Undo fails.
func Remove(cfg RemoveConfig) (failover.Step, error) {
	const kind = "RemoveConfig"
	var p problems
	p.require(cfg.Cluster != nil, kind+".Cluster", "is nil", "make one with NewCluster")
	gv, err := schema.ParseGroupVersion(cfg.APIVersion)
	p.require(err == nil && gv.Version != "", kind+".APIVersion", fmt.Sprintf("%q is none", cfg.APIVersion), "use group/version, or version alone, such as apps/v1 or v1")
	p.require(cfg.Kind != "", kind+".Kind", "is empty", "use a kind, such as Deployment")
	p.require(gv.Group != "" || !strings.EqualFold(cfg.Kind, "secret"), kind+".Kind", "is Secret", "remove it by hand: its manifest would be kept in a file")
	p.require(cfg.Object != "" && !strings.ContainsAny(cfg.Object, "/%"), kind+".Object", fmt.Sprintf("%q is no name in Kubernetes", cfg.Object), "give the name of an object that is there")
	p.require(filepath.IsAbs(cfg.Manifest), kind+".Manifest", fmt.Sprintf("%q is no absolute path", cfg.Manifest), "give a file that outlives this program")
	p.require(cfg.Timeout >= 0, kind+".Timeout", "is negative", "use a positive one, or 0 for the default")
	if err := p.err(); err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfigAndClient(cfg.Cluster.rest, cfg.Cluster.http)
	if err != nil {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: kind + ".Cluster", Cause: err, Hint: "make it with NewCluster"}
	}
	s := &removal{Cluster: cfg.Cluster, cfg: cfg, dynamic: client, kind: gv.WithKind(cfg.Kind)}
	what := strings.ToLower(cfg.Kind)
	place, command := "", []string{"kubectl", "delete", what, cfg.Object}
	if cfg.Namespace != "" {
		place = " in namespace " + cfg.Namespace
		command = append(command, "-n", cfg.Namespace)
	}
	return failover.Funcs{
		Name: cmp.Or(cfg.Name, strings.ReplaceAll(nameOf("remove", cfg.Cluster.name, cfg.Namespace, what, cfg.Object), "//", "/")), Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: cfg.Timeout,
		Description: failover.Description{
			Action:    fmt.Sprintf("Delete %s %s%s of %s, after its manifest was kept in %s", cfg.Kind, cfg.Object, place, cfg.Cluster.name, cfg.Manifest),
			Commands:  []string{shell(append(append([]string{"kubectl", "get", what, cfg.Object}, command[4:]...), "-o", "json")...) + " > " + shell(cfg.Manifest), shell(command...)},
			Undo:      "make it anew from the kept manifest",
			Reference: cfg.Reference,
			Inputs: cfg.Cluster.inputs(map[string]any{"namespace": cfg.Namespace, "apiVersion": cfg.APIVersion, "kind": cfg.Kind, "object": cfg.Object,
				"manifest": cfg.Manifest, "ifInstalled": cfg.IfInstalled}),
		},
	}.Step(), nil
}

type removal struct {
	*Cluster
	cfg     RemoveConfig
	dynamic dynamic.Interface
	kind    schema.GroupVersionKind
}

// removed is what a removal saves before it begins.
type removed struct {
	UID    types.UID `json:"uid"`
	SHA256 string    `json:"sha256"` // of the manifest
}

// objects is where the object is among its kind. The API says how the kind's resource is called.
func (s *removal) objects(ctx context.Context) (dynamic.ResourceInterface, error) {
	path := "/apis/" + s.cfg.APIVersion
	if s.kind.Group == "" {
		path = "/api/" + s.cfg.APIVersion
	}
	status, body, err := s.ask(ctx, path, 0, maxAnswer, http.Header{"Accept": {"application/json"}})
	if err != nil {
		return nil, fmt.Errorf("ask for the resources of %s: %w", s.cfg.APIVersion, err)
	}
	if status != http.StatusOK {
		return nil, explain(apierrors.NewGenericServerResponse(status, "get", schema.GroupResource{Group: s.kind.Group}, "", "", 0, true), "ask for the resources of %s", s.cfg.APIVersion)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("the resources of %s: %w", s.cfg.APIVersion, err)
	}
	for _, r := range list.APIResources {
		if r.Kind != s.cfg.Kind || strings.Contains(r.Name, "/") {
			continue
		}
		if r.Namespaced != (s.cfg.Namespace != "") {
			return nil, failover.Permanent(fmt.Errorf("%s has namespaces: %v; RemoveConfig.Namespace is %q", s.cfg.Kind, r.Namespaced, s.cfg.Namespace))
		}
		at := s.dynamic.Resource(s.kind.GroupVersion().WithResource(r.Name))
		if r.Namespaced {
			return at.Namespace(s.cfg.Namespace), nil
		}
		return at, nil
	}
	return nil, &meta.NoKindMatchError{GroupKind: s.kind.GroupKind(), SearchedVersions: []string{s.kind.Version}}
}

// get reads the object; nil if it, or its kind, is not there.
func (s *removal) get(ctx context.Context) (*unstructured.Unstructured, error) {
	at, err := s.objects(ctx)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	object, err := at.Get(ctx, s.cfg.Object, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return object, explain(err, "read %s %s", s.cfg.Kind, s.cfg.Object)
}

func (s *removal) observe(ctx context.Context) (failover.Observation, error) {
	var saved removed
	begun, err := failover.Load(ctx, keyBefore, &saved)
	if err != nil {
		return failover.Observation{}, err
	}
	object, err := s.get(ctx)
	name := s.cfg.Kind + " " + s.cfg.Object
	switch {
	case err != nil:
		return failover.Observation{}, err
	case object == nil && (begun || s.cfg.IfInstalled):
		return failover.Observation{State: failover.Done, Detail: name + " is not there"}, nil
	case object == nil:
		return failover.Observation{State: failover.Blocked, Detail: name + " is not there"}, nil
	case begun && object.GetUID() == saved.UID && object.GetDeletionTimestamp() != nil:
		return failover.Observation{State: failover.Partial, Detail: fmt.Sprintf("%s is being deleted; finalizers: %s", name, listed(object.GetFinalizers()))}, nil
	}
	return failover.Observation{State: failover.Pending, Detail: name + " is there"}, nil
}

func (s *removal) do(ctx context.Context) error {
	return s.await(ctx, func(ctx context.Context) (bool, string, error) {
		object, err := s.get(ctx)
		if err != nil || object == nil {
			return err == nil, "", err
		}
		if object.GetDeletionTimestamp() != nil {
			return false, fmt.Sprintf("%s is being deleted; finalizers: %s", s.cfg.Object, listed(object.GetFinalizers())), nil
		}
		text, err := json.Marshal(object)
		if err != nil {
			return false, "", err
		}
		if err := keep(s.cfg.Manifest, text); err != nil {
			return false, "", failure{err}
		}
		if err := failover.Save(ctx, keyBefore, removed{UID: object.GetUID(), SHA256: sum(text)}); err != nil {
			return false, "", failure{err}
		}
		at, err := s.objects(ctx)
		if err != nil {
			return false, "", err
		}
		ctx, cancel := s.limit(ctx)
		defer cancel()
		uid, version, policy := object.GetUID(), object.GetResourceVersion(), metav1.DeletePropagationForeground
		// What was kept is what is deleted: a change in between is kept anew.
		err = at.Delete(ctx, s.cfg.Object, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}, PropagationPolicy: &policy})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil
		}
		return false, s.cfg.Object + " is to be deleted", explain(err, "delete %s %s", s.cfg.Kind, s.cfg.Object)
	})
}

func (s *removal) undo(ctx context.Context) error {
	var saved removed
	begun, err := failover.Load(ctx, keyBefore, &saved)
	if err != nil || !begun {
		return err // nothing was deleted
	}
	text, err := os.ReadFile(s.cfg.Manifest)
	if err != nil {
		return failover.Permanent(err)
	}
	if sum(text) != saved.SHA256 {
		return failover.Permanent(fmt.Errorf("%s is not what was kept there: restore it, or make %s %s anew by hand", s.cfg.Manifest, s.cfg.Kind, s.cfg.Object))
	}
	var object unstructured.Unstructured
	if err := json.Unmarshal(text, &object); err != nil {
		return failover.Permanent(errors.New(s.cfg.Manifest + " holds no object"))
	}
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(object.Object, "status")
	return s.await(ctx, func(ctx context.Context) (bool, string, error) {
		now, err := s.get(ctx)
		switch {
		case err != nil:
			return false, "", err
		case now != nil && now.GetDeletionTimestamp() == nil:
			return true, "", nil
		case now != nil:
			return false, s.cfg.Object + " is still being deleted", nil
		}
		at, err := s.objects(ctx)
		if err != nil {
			return false, "", err
		}
		ctx, cancel := s.limit(ctx)
		defer cancel()
		_, err = at.Create(ctx, &object, metav1.CreateOptions{FieldManager: "understudy"})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return false, s.cfg.Object + " has been made", explain(err, "make %s %s anew", s.cfg.Kind, s.cfg.Object)
	})
}

func sum(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// keep writes a file durably, in one step.
func keep(path string, text []byte) (err error) {
	next, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if errors.Is(err, fs.ErrNotExist) {
		return failover.Permanent(fmt.Errorf("the folder of RemoveConfig.Manifest: %w", err))
	}
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(next.Name()) }()
	_, err = next.Write(text)
	if err = errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
