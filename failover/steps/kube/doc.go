// Package kube has steps that act on a Kubernetes cluster through its API: pods replaced by label, workloads restarted or scaled, an object removed, a check read and a name
// resolved from inside, API servers asked and restarted one by one.
//
//	standby, err := kube.NewCluster(kube.ClusterConfig{Name: "standby", REST: restConfig})
//	…
//	step, err := kube.RestartPods(kube.RestartPodsConfig{
//		Cluster: standby, Namespace: "cpaas-system", Selector: "service_name in (alertmanager,vmselect,vminsert)", IfInstalled: true,
//	})
//
// # What it promises
//
// A step that was killed goes on where it was: what it is about to replace is in the journal before the first pod is deleted, by UID, so that nothing is replaced twice and nothing is left out;
// clocks decide nothing. What comes back is told by its controller and has to be ready.
// Pods that nothing would bring back are never deleted, and an empty selector, which means every pod, is refused.
// An API server that cannot be reached for a while is waited for within the step's time; a right that is missing fails the step at once, and the error says which.
//
// # Undo
//
// RestartPods, RestartWorkloads, ResolveInside and RestartAPIServers leave nothing that could be taken back: what they replace is replaced by the same. Undo of them changes nothing in the cluster and
// makes them pending in the journal, so that a plan can be undone across them and begun again. Scale and Remove put back what was there before.
//
// # Limits
//
// Every request has a deadline of its own (ClusterConfig.RequestTimeout). No step reads Secrets, and Remove refuses to. What a program in a pod prints beyond the addresses it is asked for is not shown.
// Clusters from 1.20 on are meant; see docs/ for what is tested.
package kube
