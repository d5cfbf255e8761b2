package kubestorage

import (
	"fmt"
	"math/rand/v2"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes/scheme"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kind is a resource as an apiserver stores it.
type kind struct {
	resource   schema.GroupResource
	prefix     string // of its keys, below the apiserver's own
	namespaced bool
	codec      runtime.Codec
	object     func() runtime.Object
	list       func() runtime.Object
	// fill gives an object contents; what it had is replaced.
	fill func(r *rand.Rand, obj runtime.Object)
}

// stored is the codec of a built-in version: protobuf, as apiservers store.
func stored(gv schema.GroupVersion) runtime.Codec {
	return scheme.Codecs.CodecForVersions(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), scheme.Codecs.UniversalDeserializer(), gv, gv)
}

func text(r *rand.Rand) string { return fmt.Sprintf("%x", r.Uint64()) }

var (
	configMaps = kind{
		resource: corev1.Resource("configmaps"), prefix: "/configmaps", namespaced: true, codec: stored(corev1.SchemeGroupVersion),
		object: func() runtime.Object { return &corev1.ConfigMap{} }, list: func() runtime.Object { return &corev1.ConfigMapList{} },
		fill: func(r *rand.Rand, obj runtime.Object) {
			obj.(*corev1.ConfigMap).Data = map[string]string{"a": text(r), "b": text(r)}
		},
	}
	secrets = kind{
		resource: corev1.Resource("secrets"), prefix: "/secrets", namespaced: true, codec: stored(corev1.SchemeGroupVersion),
		object: func() runtime.Object { return &corev1.Secret{} }, list: func() runtime.Object { return &corev1.SecretList{} },
		fill: func(r *rand.Rand, obj runtime.Object) {
			s := obj.(*corev1.Secret)
			s.Type, s.Data = corev1.SecretTypeOpaque, map[string][]byte{"password": []byte(text(r))}
		},
	}
	services = kind{
		resource: corev1.Resource("services"), prefix: "/services/specs", namespaced: true, codec: stored(corev1.SchemeGroupVersion),
		object: func() runtime.Object { return &corev1.Service{} }, list: func() runtime.Object { return &corev1.ServiceList{} },
		fill: func(r *rand.Rand, obj runtime.Object) {
			obj.(*corev1.Service).Spec = corev1.ServiceSpec{Selector: map[string]string{"app": text(r)}, Ports: []corev1.ServicePort{{Port: r.Int32N(60000) + 1}}}
		},
	}
	deployments = kind{
		resource: appsv1.Resource("deployments"), prefix: "/deployments", namespaced: true, codec: stored(appsv1.SchemeGroupVersion),
		object: func() runtime.Object { return &appsv1.Deployment{} }, list: func() runtime.Object { return &appsv1.DeploymentList{} },
		fill: func(r *rand.Rand, obj runtime.Object) {
			replicas := r.Int32N(9)
			obj.(*appsv1.Deployment).Spec = appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
				Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: text(r)}}}}}
		},
	}
	clusterRoles = kind{
		resource: rbacv1.Resource("clusterroles"), prefix: "/clusterroles", codec: stored(rbacv1.SchemeGroupVersion),
		object: func() runtime.Object { return &rbacv1.ClusterRole{} }, list: func() runtime.Object { return &rbacv1.ClusterRoleList{} },
		fill: func(r *rand.Rand, obj runtime.Object) {
			obj.(*rbacv1.ClusterRole).Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{text(r)}}}
		},
	}
	// widgets are custom resources, which apiservers store as JSON.
	widgets = kind{
		resource: schema.GroupResource{Group: "example.com", Resource: "widgets"}, prefix: "/example.com/widgets", codec: unstructured.UnstructuredJSONScheme,
		object: func() runtime.Object { return blank("Widget") }, list: func() runtime.Object {
			return &unstructured.UnstructuredList{Object: blank("WidgetList").Object}
		},
		fill: func(r *rand.Rand, obj runtime.Object) {
			obj.(*unstructured.Unstructured).Object["spec"] = map[string]any{"size": r.Int64N(1 << 40), "colour": text(r)}
		},
	}
	kinds = []kind{configMaps, secrets, services, deployments, clusterRoles, widgets}
)

func blank(kind string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": kind}}
}

// key is an object's, as the storage layer wants it.
func (k kind) key(namespace, name string) string {
	if k.namespaced {
		return k.prefix + "/" + namespace + "/" + name
	}
	return k.prefix + "/" + name
}

func (k kind) keyOf(obj runtime.Object) (string, error) {
	o := obj.(metav1.Object)
	return k.key(o.GetNamespace(), o.GetName()), nil
}

func (k kind) attrs() storage.AttrFunc {
	if k.namespaced {
		return storage.DefaultNamespaceScopedAttr
	}
	return storage.DefaultClusterScopedAttr
}

// writeLabel carries the number of the write that made an object what it is.
const writeLabel = "write"

func (k kind) make(r *rand.Rand, namespace, name string, write int64) runtime.Object {
	obj := k.object()
	o := obj.(metav1.Object)
	o.SetName(name)
	if k.namespaced {
		o.SetNamespace(namespace)
	}
	o.SetUID(uid(write))
	o.SetCreationTimestamp(metav1.Unix(1_700_000_000+write, 0))
	k.change(r, obj, write)
	return obj
}

func (k kind) change(r *rand.Rand, obj runtime.Object, write int64) {
	k.fill(r, obj)
	obj.(metav1.Object).SetLabels(map[string]string{writeLabel: strconv.FormatInt(write, 10)})
}
