package e2e_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// pairs is how many owners, each with a dependent, are made in a round.
const pairs = 300

func ownedBy(kind, name string, uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: kind, Name: name, UID: uid}}
}

// makePairs makes a round of owners and dependents and returns the dependents' UIDs by namespace/name. Two of three owners come long after their dependents in the order of keys, so that a copy in that order would
// show the garbage collector dependents without owners; of some the owner is encrypted, of others the dependent.
func (s *site) makePairs(ctx context.Context, t *testing.T, round int) map[string]types.UID {
	t.Helper()
	uids := make([]types.UID, pairs)
	side(t, pairs, func(i int) error {
		c := s.Client().CoreV1()
		ns, owner := tenant(i), meta("", fmt.Sprintf("owner-%d-%d", round, i))
		of := metav1.ObjectMeta{Name: dependent(round, i)}
		switch i % 3 {
		case 0:
			made, err := c.PodTemplates(ns).Create(ctx, &corev1.PodTemplate{ObjectMeta: owner, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			of.OwnerReferences = ownedBy("PodTemplate", made.Name, made.UID)
		case 1:
			made, err := c.Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: owner}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			of.OwnerReferences = ownedBy("Secret", made.Name, made.UID)
		default:
			made, err := c.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: owner}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			of.OwnerReferences = ownedBy("ConfigMap", made.Name, made.UID)
			secret, err := c.Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: of}, metav1.CreateOptions{})
			if err == nil {
				uids[i] = secret.UID
			}
			return err
		}
		made, err := c.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: of}, metav1.CreateOptions{})
		if err == nil {
			uids[i] = made.UID
		}
		return err
	})
	all := map[string]types.UID{}
	for i, uid := range uids {
		all[tenant(i)+"/"+dependent(round, i)] = uid
	}
	return all
}

func dependent(round, i int) string { return fmt.Sprintf("a-dependent-%d-%d", round, i) }

// lost lists dependents that a site does not have, or not as they were made.
func (s *site) lost(ctx context.Context, t *testing.T, want map[string]types.UID) (names []string) {
	t.Helper()
	found := map[string]types.UID{}
	for i := range tenants {
		maps, err := s.Client().CoreV1().ConfigMaps(tenant(i)).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range maps.Items {
			if len(m.OwnerReferences) == 1 {
				found[m.Namespace+"/"+m.Name] = m.UID
			}
		}
		secrets, err := s.Client().CoreV1().Secrets(tenant(i)).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range secrets.Items {
			if len(m.OwnerReferences) == 1 {
				found[m.Namespace+"/"+m.Name] = m.UID
			}
		}
	}
	for name, uid := range want {
		if found[name] != uid {
			names = append(names, name)
		}
	}
	return names
}

// collects shows that the garbage collector of a site is at work: an object whose owner does not exist is made, in an excluded namespace, and goes. What came before has been looked at by then.
func (s *site) collects(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	of := metav1.ObjectMeta{Name: name, OwnerReferences: ownedBy("ConfigMap", "no-owner", uuid.NewUUID())}
	maps, secrets := s.Client().CoreV1().ConfigMaps("kube-system"), s.Client().CoreV1().Secrets("kube-system")
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: of}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: of}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "the garbage collector of the "+s.name, func() string {
		_, ofMap := maps.Get(ctx, name, metav1.GetOptions{})
		_, ofSecret := secrets.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(ofMap) && apierrors.IsNotFound(ofSecret) {
			return ""
		}
		return fmt.Sprintf("%s: ConfigMap %v, Secret %v", name, ofMap, ofSecret)
	})
}
