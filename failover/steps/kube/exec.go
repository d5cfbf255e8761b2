package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	exitcode "k8s.io/client-go/util/exec"
)

// maxPrinted bounds what is kept of what a command in a pod prints.
const maxPrinted = 64 << 10

// printed is what a command in a pod left.
type printed struct {
	pod            string
	stdout, stderr string
	exit           int
}

// runIn runs a command in a ready pod of a workload, as kubectl exec does. A command that ended with another status than 0 is no error.
func (c *Cluster) runIn(ctx context.Context, namespace string, w workload, container string, command []string) (printed, error) {
	pod, container, err := c.readyPodOf(ctx, namespace, w, container)
	if err != nil {
		return printed{}, err
	}
	ctx, cancel := c.limit(ctx)
	defer cancel()
	// Made from a REST client of its own kind, because a replaced Client may have none.
	cfg := rest.CopyConfig(c.rest)
	cfg.APIPath, cfg.GroupVersion, cfg.NegotiatedSerializer = "/api", &corev1.SchemeGroupVersion, scheme.Codecs.WithoutConversion()
	core, err := rest.RESTClientForConfigAndClient(cfg, c.http)
	if err != nil {
		return printed{}, err
	}
	where := core.Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	web, err := remotecommand.NewWebSocketExecutor(c.rest, http.MethodGet, where.String())
	if err != nil {
		return printed{}, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.rest, http.MethodPost, where) // for API servers before 1.30
	if err != nil {
		return printed{}, err
	}
	executor, err := remotecommand.NewFallbackExecutor(web, spdy, func(err error) bool { return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) })
	if err != nil {
		return printed{}, err
	}
	p := printed{pod: pod}
	var stdout, stderr bounded
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	p.stdout, p.stderr = string(stdout), string(stderr)
	var code exitcode.CodeExitError
	if errors.As(err, &code) {
		p.exit = code.Code
		return p, nil
	}
	return p, explain(err, "run %s in pod %s", command[0], pod)
}

// readyPodOf gives the first ready pod of a workload by name, and the container that is meant.
func (c *Cluster) readyPodOf(ctx context.Context, namespace string, w workload, container string) (pod, in string, err error) {
	r, err := c.rolled(ctx, namespace, w)
	if err != nil {
		return "", "", err
	}
	if r == nil {
		return "", "", apierrors.NewNotFound(corev1.Resource(w.Kind), w.Name)
	}
	pods, err := replacement{Cluster: c, namespace: namespace, selector: r.pods}.list(ctx)
	if err != nil {
		return "", "", err
	}
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.DeletionTimestamp == nil && readyPod(p) })
	if i < 0 {
		return "", "", fmt.Errorf("%s in namespace %s has no ready pod to run a command in", w, namespace)
	}
	if container == "" {
		container = pods[i].Annotations["kubectl.kubernetes.io/default-container"]
	}
	if container == "" {
		container = pods[i].Spec.Containers[0].Name
	}
	return pods[i].Name, container, nil
}

// bounded keeps the beginning of what is written to it.
type bounded []byte

var _ io.Writer = (*bounded)(nil)

func (b *bounded) Write(text []byte) (int, error) {
	*b = append(*b, text[:min(len(text), maxPrinted-len(*b))]...)
	return len(text), nil
}
