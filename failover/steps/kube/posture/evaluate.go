package posture

import (
	"fmt"
	"maps"
	"slices"
)

// evaluate tells what is wrong by what was gathered. Each check but those that are missing is made.
func evaluate(f *facts, cfg Config) (findings []Finding, controllers Controllers) {
	controllers = ControllersUnknown
	if f.away != nil {
		findings = append(findings, Finding{Check: CheckControllers, Severity: Fatal, Subject: "API server of the standby", Problem: f.away.Error(),
			Consequence: "nothing is known of the standby, and nobody can switch to it", Remedy: "see why it does not answer; check address, certificates and credentials", NotLooked: true})
	}
	for _, check := range Checks() {
		if m, ok := f.missing[check]; ok {
			if f.away != nil && check == CheckControllers {
				continue
			}
			severity := Info
			if m.failed {
				severity = Warning
			}
			findings = append(findings, Finding{Check: check, Severity: severity, Subject: "this check", Problem: "not looked at: " + m.why,
				Consequence: "nobody knows whether it would find something", Remedy: "give the Config what is missing, or look by hand", NotLooked: true})
			continue
		}
		add := func(severity Severity, subject, problem, consequence, remedy string) {
			findings = append(findings, Finding{Check: check, Severity: severity, Subject: subject, Problem: problem, Consequence: consequence, Remedy: remedy})
		}
		switch check {
		case CheckControllers:
			controllers = evaluateControllers(f, add)
		case CheckServiceCIDR:
			evaluateServiceCIDR(f, add)
		case CheckNodePorts:
			evaluateNodePorts(f, add)
		case CheckServiceAccounts:
			evaluateServiceAccounts(f, add)
		case CheckVersion:
			evaluateVersion(f, add)
		case CheckEncryption:
			evaluateEncryption(f, add)
		case CheckRevision:
			evaluateRevision(f, cfg, add)
		case CheckAPIServices:
			evaluateReferences(f, f.primary.apiServices, "discovery of the standby fails for the group, and with it the deletion of every namespace, which hangs in Terminating", add)
		case CheckWebhooks:
			evaluateReferences(f, f.primary.webhooks, "the standby's API servers call a service that is not there: what the webhook decides about is refused", add)
		case CheckVolumes:
			evaluateVolumes(f, add)
		case CheckDefinitions:
			evaluateDefinitions(f, add)
		case CheckRootCA:
			evaluateRootCA(f, add)
		}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int { return b.Severity.rank() - a.Severity.rank() })
	return findings, controllers
}

// without lists what is in all and in none of the others.
func without(all []string, others ...[]string) (rest []string) {
	for _, s := range all {
		if !slices.ContainsFunc(others, func(other []string) bool { return slices.Contains(other, s) }) {
			rest = append(rest, s)
		}
	}
	return rest
}

type addFunc func(severity Severity, subject, problem, consequence, remedy string)

// runs reports whether a holder renews its lease.
func (s *side) runs(holder string) bool {
	l, ok := s.leases[holder]
	return ok && l.holder != "" && !l.renewed.Add(l.duration).Before(s.now)
}

func evaluateControllers(f *facts, add addFunc) Controllers {
	manager, scheduler := f.standby.runs("kube-controller-manager"), f.standby.runs("kube-scheduler")
	switch {
	case manager:
		add(Warning, "kube-controller-manager of the standby", "it runs: its lease is renewed",
			"the standby acts on what arrives: the garbage collector deletes objects whose owners are not mirrored, ReplicaSets and Jobs make pods of their own, namespaces that arrive as Terminating are emptied, kube-root-ca.crt and "+
				"ca.crt of token Secrets are rewritten; a check of equality reports these as surplus and different",
			"stop kube-controller-manager until the promotion (move its static pod's manifest away), or accept this and keep the mirror's filter at its defaults, which leave out what the controllers fight over")
		if scheduler {
			add(Info, "kube-scheduler of the standby", "it runs, too", "pods that controllers of the standby make are started on its nodes: workloads run twice", "scale down or suspend what must not run twice, or stop both until the promotion")
		}
		return ControllersRunning
	case scheduler:
		add(Warning, "kube-scheduler of the standby", "it runs, and kube-controller-manager does not", "mirrored pods that have no node are started on the standby's nodes, and nobody cleans up after them", "stop kube-scheduler until the promotion, or leave pods out of the mirror, which is the filter's default")
		return ControllersRunning
	}
	add(Info, "controllers of the standby", "neither kube-controller-manager nor kube-scheduler renews its lease, as far as they elect leaders: one with --leader-elect=false has none", "what arrives stays as it is; workloads start, and garbage is collected, only after the promotion", "make sure that none runs without a lease; let the plan of the switch start both after the fences, and wait for them")
	return ControllersStopped
}

func evaluateServiceCIDR(f *facts, add addFunc) {
	p, s := f.primary, f.standby
	const consequence = "mirrored Services keep cluster IPs that are not the standby's: they cannot be updated there, new ones may collide, and its kube-proxy and DNS point elsewhere"
	const remedy = "set the standby up with the primary's --service-cluster-ip-range, or add a ServiceCIDR with the primary's range there"
	switch {
	case len(p.cidrs) > 0 && len(s.cidrs) > 0:
		if absent := without(p.cidrs, s.cidrs, p.arriving); len(absent) > 0 {
			add(Fatal, "service CIDR", fmt.Sprintf("the primary's %v is not among the standby's %v", absent, s.cidrs), consequence, remedy)
		} else if surplus := without(s.cidrs, p.cidrs); len(surplus) > 0 {
			add(Info, "service CIDR", fmt.Sprintf("the standby also has %v", surplus), "new Services of the standby may get addresses that the primary does not have, which matters at the failback", "remove the surplus ServiceCIDR if nothing uses it")
		}
	case !slices.Equal(p.addresses, s.addresses):
		add(Warning, "service CIDR", fmt.Sprintf("default/kubernetes has %v at the primary and %v at the standby, and there are no ServiceCIDRs on both to tell more", p.addresses, s.addresses), consequence, remedy)
	}
}

func evaluateNodePorts(f *facts, add addFunc) {
	p, s := f.primary.nodePorts, f.standby.nodePorts
	if p.first < s.first || p.last > s.last {
		add(Fatal, "node-port range", fmt.Sprintf("the primary's %v is not within the standby's %v", p, s), "mirrored Services with node ports outside cannot be updated at the standby, and its load balancers may not reach them",
			"set the primary's --service-node-port-range at the standby's API servers")
	}
}

func evaluateServiceAccounts(f *facts, add addFunc) {
	const consequence = "every token that the primary has issued is refused at the standby with 401: clients outside of the cluster, and workloads that were given a token Secret, lose access at the switch"
	if f.primary.issuer != f.standby.issuer {
		add(Warning, "service account issuer", fmt.Sprintf("%s at the primary, %s at the standby", f.primary.issuer, f.standby.issuer), consequence, "give the standby's API servers the primary's issuer as a further --service-account-issuer")
	}
	absent := 0
	for key := range f.primary.keys {
		if !f.standby.keys[key] {
			absent++
		}
	}
	if absent > 0 {
		add(Warning, "service account signing keys", fmt.Sprintf("%d of the primary's %d are not among the standby's %d", absent, len(f.primary.keys), len(f.standby.keys)), consequence,
			"give the standby's API servers the primary's public keys by a further --service-account-key-file each")
	}
}

func evaluateVersion(f *facts, add addFunc) {
	if f.standby.minor < f.primary.minor {
		add(Fatal, "API server of the standby", fmt.Sprintf("it is %s, and the primary's %s", f.standby.version, f.primary.version),
			"a value in a version that the standby does not know breaks the list of the whole resource there, freezes its watches, and keeps an API server that restarts from becoming ready",
			"upgrade the standby first; at an upgrade of both, the standby goes first")
	}
}

func evaluateEncryption(f *facts, add addFunc) {
	if f.unreadable > 0 {
		add(Fatal, "encrypted values", fmt.Sprintf("the standby cannot read %d values of the primary", f.unreadable),
			"one of them in the standby's etcd breaks the list of the whole resource, and an API server that restarts does not become ready; with the mirror's guard they are kept away, and are missing after the switch",
			"let the mirror transcode, or roll the primary's keys out at the standby first")
	}
	if f.unknown > 0 {
		add(Warning, "encrypted values", fmt.Sprintf("of %d values nothing is known: a KMS plugin did not answer", f.unknown), "they may be unreadable for the standby", "bring the plugin up where the check runs, and check again")
	}
}

func evaluateRevision(f *facts, cfg Config, add addFunc) {
	headroom := f.standby.revision - f.primary.revision
	if headroom >= cfg.RevisionMargin {
		return
	}
	fillers := cfg.RevisionMargin - headroom
	severity, problem := Info, fmt.Sprintf("it is at %d, the primary's at %d: a revision fence %d above it takes %d filler writes", f.standby.revision, f.primary.revision, cfg.RevisionMargin, fillers)
	remedy := "let the plan of the switch raise it by its revision fence, with a compaction there and a restart of the API servers"
	if fillers > cfg.MaxFillers {
		severity = Warning
		remedy = "raise it at set-up instead: restore the standby's etcd from its own snapshot with etcdutl snapshot restore --bump-revision --mark-compacted; or accept what the fence takes"
	}
	add(severity, "revision of the standby's etcd", problem, "without the fence, clients that move to the standby watch from a revision that it has not reached, get nothing and no error, or get events of another history", remedy)
}

func evaluateReferences(f *facts, all []reference, consequence string, add addFunc) {
	for _, r := range all {
		if !r.mirrored || f.standby.services[r.namespace+"/"+r.service] {
			continue
		}
		severity, what := Fatal, consequence
		if r.ignored {
			severity, what = Warning, "the standby's API servers wait for a service that is not there at each request that the webhook is asked about, and go on without it"
		}
		add(severity, r.kind+" "+r.name, fmt.Sprintf("it is mirrored, and its service %s/%s is neither mirrored nor at the standby", r.namespace, r.service), what,
			"install the service at the standby first, or leave the object out of the mirror by a rule of the filter")
	}
}

func evaluateVolumes(f *facts, add addFunc) {
	var lost, released, kept []string
	for _, v := range f.primary.volumes {
		switch {
		case !v.mirrored || v.claim == "" || v.claimMirrored:
		case v.reclaim == "Delete" && v.driver != "":
			lost = append(lost, v.name)
		case v.reclaim == "Delete":
			released = append(released, v.name)
		default:
			kept = append(kept, v.name)
		}
	}
	const problem = "mirrored, and the claims are not"
	if len(lost) > 0 {
		add(Fatal, several("PersistentVolume", lost), problem+"; the reclaim policy is Delete, and a CSI driver provisions them",
			"the standby takes them for released within seconds of its controller-manager's start, and its external provisioner deletes them at the storage: the primary's data, if both reach the same",
			"leave PersistentVolumes out of the mirror (the filter's default), mirror their claims, or set the reclaim policy Retain at the primary first")
	}
	if len(released) > 0 {
		add(Warning, several("PersistentVolume", released), problem+"; the reclaim policy is Delete", "the standby takes them for released and tries to delete what they stand for", "leave them out of the mirror, mirror their claims, or set Retain")
	}
	if len(kept) > 0 {
		add(Info, several("PersistentVolume", kept), problem+"; nothing deletes them", "the standby shows them as released; no claim binds to one before its claimRef is removed", "make them available by hand after the promotion, or leave them out")
	}
}

func evaluateDefinitions(f *facts, add addFunc) {
	for _, name := range slices.Sorted(maps.Keys(f.primary.definitions)) {
		p := f.primary.definitions[name]
		s, there := f.standby.definitions[name]
		switch {
		case !p.objects && !p.mirrored:
		case p.mirrored && there:
			if absent := without(s.stored, p.versions); len(absent) > 0 {
				add(Fatal, "CustomResourceDefinition "+name, fmt.Sprintf("the mirror replaces the standby's, of which objects are stored as %v, which the primary's does not have", absent),
					"those objects break the list of the kind at the standby", "migrate the standby's objects to a version that both have, or leave the definition and its objects out of the mirror")
			}
		case p.mirrored:
		case !there:
			add(Warning, "CustomResourceDefinition "+name, "objects are mirrored, and the definition is neither mirrored nor at the standby", "the objects lie in the standby's etcd and nobody serves them", "install the definition at the standby, or mirror it")
		default:
			if absent := without(p.stored, s.versions); len(absent) > 0 {
				add(Fatal, "CustomResourceDefinition "+name, fmt.Sprintf("objects are stored as %v at the primary, and the standby's definition, which is not mirrored, does not have that", absent),
					"one such object breaks the list of the kind at the standby", "install the primary's version of the definition at the standby, or mirror it")
			}
		}
	}
}

func evaluateRootCA(f *facts, add addFunc) {
	if f.primary.rootCA == f.standby.rootCA || f.primary.tokens == 0 {
		return
	}
	add(Info, fmt.Sprintf("%d service account token Secrets", f.primary.tokens), "mirrored with ca.crt of the primary, and the standby has another CA",
		"the standby's controller-manager rewrites ca.crt when it runs, so these Secrets differ for ever; until then, whoever uses one does not trust the standby's API servers",
		"expect the difference, or leave Secrets of the type kubernetes.io/service-account-token out")
}
