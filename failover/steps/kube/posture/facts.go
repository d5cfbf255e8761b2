package posture

import "time"

// facts is what was gathered of both clusters; what is told of it by evaluate needs no network.
type facts struct {
	primary, standby side
	// unreadable and unknown are what Config.Unreadable said.
	unreadable, unknown int
	// missing says of a check why it could not be made.
	missing map[string]missing
	// away says why the standby cannot be reached at all.
	away error
}

// missing is why something was not looked at. It is a warning where something failed, and else what nobody asked for.
type missing struct {
	why    string
	failed bool
}

// side is one cluster.
type side struct {
	minor   int // of 1.x
	version string

	leases map[string]lease // by holder: kube-controller-manager, kube-scheduler
	now    time.Time        // the cluster's, as its freshest lease tells; else the local one

	cidrs     []string // of ServiceCIDRs
	arriving  []string // those of them that are mirrored
	addresses []string // of the Service default/kubernetes, where there are no ServiceCIDRs

	nodePorts *ports

	issuer string
	keys   map[string]bool // fingerprints of signing keys

	revision int64

	apiServices []reference
	webhooks    []reference
	services    map[string]bool // namespace/name

	volumes     []volume
	definitions map[string]definition

	rootCA string // hash
	// tokens counts the service account token Secrets that are mirrored.
	tokens int
}

type lease struct {
	holder   string
	renewed  time.Time
	duration time.Duration
}

// reference is something that an apiserver calls at a service.
type reference struct {
	kind, name         string // such as APIService v1beta1.metrics.k8s.io
	namespace, service string
	ignored            bool // failurePolicy Ignore
	mirrored           bool
}

type volume struct {
	name, driver            string // CSI driver, or ""
	reclaim                 string
	claimNamespace, claim   string
	mirrored, claimMirrored bool
}

type definition struct {
	versions []string // that can be read
	stored   []string
	// mirrored: the definition itself; objects: those of its kind.
	mirrored, objects bool
}
