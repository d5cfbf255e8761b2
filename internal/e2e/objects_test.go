package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/understudy-dr/understudy/keyfilter"
)

var (
	crds    = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	widgets = schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "widgets"} // cluster-scoped
	gadgets = schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "gadgets"} // namespaced
)

const tenants = 6

func tenant(i int) string { return fmt.Sprintf("team-%d", i%tenants) }

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// side makes n objects, several at a time, and fails the test at the first error.
func side(t *testing.T, n int, create func(i int) error) {
	t.Helper()
	work := make(chan int)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for i := range work {
				if err := create(i); err != nil {
					t.Errorf("object %d: %v", i, err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// there is nil if an object is there already.
func there(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// furnish makes the seed's excluded namespaces at a site, and in each of them objects of that site's own: they have the same names at both sites.
func (s *site) furnish(ctx context.Context, t *testing.T) {
	t.Helper()
	excluded := keyfilter.DefaultExcludedNamespaces()
	side(t, len(excluded), func(i int) error {
		c := s.Client().CoreV1()
		if _, err := c.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta("", excluded[i])}, metav1.CreateOptions{}); there(err) != nil {
			return err
		}
		if _, err := c.ConfigMaps(excluded[i]).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta(excluded[i], "whose"), Data: map[string]string{"whose": s.name}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := c.Secrets(excluded[i]).Create(ctx, &corev1.Secret{ObjectMeta: meta(excluded[i], "whose"), StringData: map[string]string{"whose": s.name}}, metav1.CreateOptions{})
		return err
	})
}

// settled waits until the controllers have given each namespace its ServiceAccount and its CA bundle.
func (s *site) settled(ctx context.Context, t *testing.T) {
	t.Helper()
	until(ctx, t, "the controllers of the "+s.name, func() string {
		list, err := s.Client().CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, ns := range list.Items {
			if _, err := s.Client().CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{}); err != nil {
				return err.Error()
			}
			if _, err := s.Client().CoreV1().ConfigMaps(ns.Name).Get(ctx, rootCA, metav1.GetOptions{}); err != nil {
				return err.Error()
			}
		}
		return ""
	})
}

const rootCA = "kube-root-ca.crt"

func customResource(gvr schema.GroupVersionResource, kind, namespace, name string, value any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": gvr.GroupVersion().String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": map[string]any{"value": value}}}
	u.SetNamespace(namespace)
	return u
}

func definition(gvr schema.GroupVersionResource, kind, scope string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": gvr.Resource + "." + gvr.Group},
		"spec": map[string]any{
			"group": gvr.Group, "scope": scope, "names": map[string]any{"plural": gvr.Resource, "singular": gvr.Resource[:len(gvr.Resource)-1], "kind": kind, "listKind": kind + "List"},
			"versions": []any{map[string]any{"name": gvr.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
		},
	}}
}

// define makes the custom resources and waits until they are served.
func (s *site) define(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, d := range []*unstructured.Unstructured{definition(widgets, "Widget", "Cluster"), definition(gadgets, "Gadget", "Namespaced")} {
		if _, err := s.dynamic.Resource(crds).Create(ctx, d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	until(ctx, t, "the custom resources", func() string {
		for _, gvr := range []schema.GroupVersionResource{widgets, gadgets} {
			if _, err := s.dynamic.Resource(gvr).List(ctx, metav1.ListOptions{}); err != nil {
				return err.Error()
			}
		}
		return ""
	})
}

// populate makes what users have: scale is how many hundred of most things.
func (s *site) populate(ctx context.Context, t *testing.T, scale int) {
	t.Helper()
	core, rbac := s.Client().CoreV1(), s.Client().RbacV1()
	side(t, tenants, func(i int) error {
		_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta("", tenant(i))}, metav1.CreateOptions{})
		return err
	})
	s.define(ctx, t)
	s.settled(ctx, t)
	n := 100 * scale
	side(t, 2*n, func(i int) error {
		_, err := core.ConfigMaps(tenant(i)).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta("", fmt.Sprintf("settings-%d", i)), Data: map[string]string{"n": fmt.Sprint(i)}}, metav1.CreateOptions{})
		return err
	})
	side(t, n, func(i int) error {
		_, err := core.Secrets(tenant(i)).Create(ctx, &corev1.Secret{ObjectMeta: meta("", fmt.Sprintf("password-%d", i)), StringData: map[string]string{"n": fmt.Sprint(i)}}, metav1.CreateOptions{})
		return err
	})
	side(t, n, func(i int) error {
		_, err := s.dynamic.Resource(gadgets).Namespace(tenant(i)).Create(ctx, customResource(gadgets, "Gadget", "", fmt.Sprintf("gadget-%d", i), int64(i)), metav1.CreateOptions{})
		return err
	})
	side(t, 10*scale, func(i int) error {
		name := fmt.Sprintf("widget-%d", i)
		if i == 0 {
			name = "default" // the name of an excluded namespace
		}
		if _, err := s.dynamic.Resource(widgets).Create(ctx, customResource(widgets, "Widget", "", name, int64(i)), metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := rbac.Roles(tenant(i)).Create(ctx, &rbacv1.Role{ObjectMeta: meta("", fmt.Sprintf("reader:%d", i)), Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}}, metav1.CreateOptions{})
		return err
	})
	side(t, 5*scale, func(i int) error {
		name := fmt.Sprintf("app-%d", i)
		labels := map[string]string{"app": name}
		if _, err := s.Client().AppsV1().Deployments(tenant(i)).Create(ctx, &appsv1.Deployment{ObjectMeta: meta("", name), Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := core.Services(tenant(i)).Create(ctx, &corev1.Service{ObjectMeta: meta("", name), Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
		return err
	})
	// A token Secret, into which the controllers of a live standby write their own CA, and a ClusterRole whose rules they gather.
	if _, err := core.Secrets(tenant(0)).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta("", "gathered"), AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"gather": "yes"}}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "part", Labels: map[string]string{"gather": "yes"}}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "the token and the gathered role", func() string {
		secret, err := core.Secrets(tenant(0)).Get(ctx, "token", metav1.GetOptions{})
		if err != nil || len(secret.Data["ca.crt"]) == 0 {
			return fmt.Sprintf("the token has no CA: %v", err)
		}
		role, err := rbac.ClusterRoles().Get(ctx, "gathered", metav1.GetOptions{})
		if err != nil || len(role.Rules) == 0 {
			return fmt.Sprintf("nothing is gathered: %v", err)
		}
		return ""
	})
}
