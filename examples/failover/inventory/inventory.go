// Package inventory reads the file that describes the clusters of a pair, or a stretched cluster, and all through which they are reached, and makes plans of package failover/runbook from it.
package inventory

import "time"

// Inventory is the file. Paths in it count from its folder. It holds no secret, but names of files that do.
type Inventory struct {
	// Clusters by name, as plans and journals call them.
	Clusters map[string]Cluster `json:"clusters"`
	// Primary and Standby are their roles when the runbook begins.
	Primary string `json:"primary"`
	Standby string `json:"standby"`

	Domain string `json:"domain"` // the platform access address
	Mirror Mirror `json:"mirror"`
	DNS    *DNS   `json:"dns"`
	// LookupFrom is a workload at the new primary in whose Pods the domain is looked up after a switch.
	LookupFrom *LookupFrom `json:"lookupFrom"`
	// Before are commands at the standby before anything is changed, such as the check of its log storage.
	Before []Command `json:"before"`
	// PlatformServices restarts those of the global cluster's documentation, where they are installed; Services are others. Workloads are the clusters in which warlock is restarted.
	PlatformServices bool       `json:"platformServices"`
	Services         []Service  `json:"services"`
	Workloads        []Workload `json:"workloads"`

	// AcceptPosture are findings about the standby that do not keep it from being mirrored into: names of checks, or CHECK/SUBJECT.
	AcceptPosture []string `json:"acceptPosture"`

	Approval         *Approval     `json:"approval"`
	Differences      string        `json:"differenceReport"` // file that a failback writes
	DifferenceValues string        `json:"differenceValues"` // file with the values, which are Secrets; left out: none
	MaxCheckAge      time.Duration `json:"maxCheckAge"`
	// RevisionMargin is how far above the primary's last known revision the standby's is raised, RevisionMarginUngraceful how far in a failover.
	RevisionMargin           int64 `json:"revisionMargin"`
	RevisionMarginUngraceful int64 `json:"revisionMarginUngraceful"`
	RevisionLimit            int64 `json:"revisionLimit"`
	// AcceptMissed, AcceptSurplus and AcceptDifferent are how many differences of each class a check may find and be green: those that a standby with controllers makes.
	AcceptMissed    int `json:"acceptMissed"`
	AcceptSurplus   int `json:"acceptSurplus"`
	AcceptDifferent int `json:"acceptDifferent"`
	// PrimaryEnded is when a dead primary took its last write (RFC 3339), if that is known.
	PrimaryEnded string `json:"primaryEnded"`
	// WithoutRoot does not ask whether commands on hosts can run as root, where none has to.
	WithoutRoot bool `json:"withoutRoot"`
	// SkipReverse ends a switchover before the old primary is made the standby.
	SkipReverse bool `json:"skipReverse"`
	// JournalCopy sends a copy of the journal to the standby's etcd.
	JournalCopy bool `json:"journalCopy"`

	Stretch *Stretch `json:"stretch"`

	dir, file string
}

// Cluster is one cluster of the pair.
type Cluster struct {
	VIPs  []string `json:"vips"`
	Ports []int    `json:"ports"` // of the virtual IPs; left out: 80, 443, 6443, 2379, 11443

	Etcd       Etcd        `json:"etcd"`
	Kubeconfig string      `json:"kubeconfig"`
	Context    string      `json:"context"` // of the kubeconfig; left out: its current one
	Hosts      []Host      `json:"hosts"`   // of the control plane
	HAProxy    []HAProxy   `json:"haproxy"`
	APIServers []APIServer `json:"apiservers"`
	// Gate is how it stops taking writes as a primary; left out: by an alarm of its etcd.
	Gate *Gate `json:"gate"`
	// Mirror starts and stops the mirror of which it is the standby.
	Mirror *Control `json:"mirror"`
	// OnPromote are static Pods that run only at a primary, such as kube-controller-manager and kube-scheduler: they are started on each host at promotion.
	OnPromote []StaticPod `json:"onPromote"`

	EncryptionConfig string        `json:"encryptionConfig"` // path on its hosts
	Installation     *Installation `json:"installation"`
}

// Etcd is how a cluster's etcd, or a member of one, is reached.
type Etcd struct {
	Endpoints    []string `json:"endpoints"`
	CACert       string   `json:"cacert"`
	Cert         string   `json:"cert"`
	Key          string   `json:"key"`
	User         string   `json:"user"`
	PasswordFile string   `json:"passwordFile"`
}

// Host is a machine. Without an address it is this one.
type Host struct {
	Name    string `json:"name"`
	Address string `json:"address"` // of its sshd: host or host:port
	User    string `json:"user"`
	// KeyFiles and KnownHosts are OpenSSH's; left out: the agent's keys, and the user's known_hosts.
	KeyFiles   []string `json:"keyFiles"`
	KnownHosts []string `json:"knownHosts"`
	Jump       string   `json:"jump"` // name of the host, earlier in the file, through which it is reached
}

// HAProxy is a load balancer's process, with the names of its frontends.
type HAProxy struct {
	Name    string   `json:"name"`
	Socket  string   `json:"socket"`  // of its runtime API: unix:/path or tcp:host:port
	Clients []string `json:"clients"` // frontends for users and the API: 80, 443, 6443, 11443
	Etcd    []string `json:"etcd"`    // frontends for the mirror: 2379
}

// APIServer is one kube-apiserver.
type APIServer struct {
	Address string   `json:"address"` // host:port
	Host    string   `json:"host"`    // that it runs on
	Restart []string `json:"restart"` // command; left out: its container is removed by crictl, and the kubelet makes it anew
}

// Command is a command on a host.
type Command struct {
	Name   string   `json:"name"` // of the step
	Action string   `json:"action"`
	Host   string   `json:"host"`
	Root   bool     `json:"root"`
	Check  []string `json:"check"` // exit code 0: nothing to do (any more), 1: to do
	Do     []string `json:"do"`
	Undo   []string `json:"undo"` // left out: it cannot be undone
}

// Control is a mirror that commands on a host start and stop.
type Control struct {
	Host    string   `json:"host"`
	Root    bool     `json:"root"`
	Start   []string `json:"start"`
	Stop    []string `json:"stop"`
	Running []string `json:"running"` // exit code 0: it runs; 1 or 3: it does not
}

// Gate is what commands on a host close, to keep writes away, and open.
type Gate struct {
	Host   string   `json:"host"`
	Root   bool     `json:"root"`
	Close  []string `json:"close"`
	Open   []string `json:"open"`
	Closed []string `json:"closed"` // exit code 0: it is closed; 1 or 3: it is open
}

// StaticPod is a static Pod whose manifest is parked while it does not run.
type StaticPod struct {
	Container string `json:"container"`
	Manifest  string `json:"manifest"` // left out: /etc/kubernetes/manifests/CONTAINER.yaml
	// Ready is a command on the host that ends with 0 when it serves.
	Ready []string `json:"ready"`
}

// Mirror is what its runs are given, too.
type Mirror struct {
	Name  string `json:"name"`
	Rules string `json:"rules"` // file of package keyfilter; left out: its defaults
}

// DNS is how the domain's record is changed and checked.
type DNS struct {
	Server      string        `json:"server"`    // that takes updates: host or host:port
	Zone        string        `json:"zone"`      // left out: it is asked for
	KeyFile     string        `json:"keyFile"`   // TSIG key, as tsig-keygen prints it
	TTL         time.Duration `json:"ttl"`       // of the record after a switch; left out: as it was
	SwitchTTL   time.Duration `json:"switchTTL"` // before a planned switch; left out: it is not lowered
	DrillDomain string        `json:"drillDomain"`
	Resolvers   []string      `json:"resolvers"` // address, address:port or system
}

// LookupFrom is a workload, such as deployment/sentry, with nslookup in its image.
type LookupFrom struct {
	Namespace    string `json:"namespace"`
	Workload     string `json:"workload"`
	Container    string `json:"container"`
	DNSNamespace string `json:"dnsNamespace"`
	DNSSelector  string `json:"dnsSelector"`
}

// Service is a set of Pods at the new primary.
type Service struct {
	Name      string `json:"name"` // of the step
	Namespace string `json:"namespace"`
	Selector  string `json:"selector"`
	Optional  bool   `json:"optional"` // it may not be installed
}

// Workload is a workload cluster.
type Workload struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	Context    string `json:"context"`
}

// Approval is who has to approve a plan before it acts.
type Approval struct {
	Role     string        `json:"role"`
	ValidFor time.Duration `json:"validFor"`
}

// Installation is what was given to a cluster's installer. See runbook.Installation.
type Installation struct {
	PlatformAddress        string   `json:"platformAddress"`
	OtherPlatformAddresses []string `json:"otherPlatformAddresses"`
	ClusterEndpoint        string   `json:"clusterEndpoint"`
	HTTPPort               int      `json:"httpPort"`
	HTTPSPort              int      `json:"httpsPort"`
	SelfBuiltVIP           bool     `json:"selfBuiltVIP"`
	SelfSigned             bool     `json:"selfSigned"`
	CertFile               string   `json:"certFile"`
	KeyFile                string   `json:"keyFile"`
	PlatformRegistry       bool     `json:"platformRegistry"`
	RegistryAddress        string   `json:"registryAddress"`
	RegistryUsername       string   `json:"registryUsername"`
	RegistryPasswordFile   string   `json:"registryPasswordFile"`
	AdminUser              string   `json:"adminUser"`
	AdminPasswordFile      string   `json:"adminPasswordFile"`
	Architectures          []string `json:"architectures"`
	PackageArchitectures   []string `json:"packageArchitectures"`
	Components             []string `json:"components"`
}

// Stretch is a cluster over several data centres.
type Stretch struct {
	Name    string   `json:"name"`
	Hosts   []Host   `json:"hosts"`
	Members []Member `json:"members"`
	// Lost are the names of the members that the disaster took; the others are left. Survivor is the one of several from which the cluster is made anew.
	Lost     []string `json:"lost"`
	Survivor string   `json:"survivor"`
	Snapshot string   `json:"snapshot"` // file for the survivor's snapshot
	FenceHow string   `json:"fenceHow"` // how the lost members are kept from coming back
	// RoundTrip are host:port of each data centre.
	RoundTrip      []string      `json:"roundTrip"`
	RoundTripLimit time.Duration `json:"roundTripLimit"`
	GlusterFS      *GlusterFS    `json:"glusterfs"`
}

// Member is one member of its etcd.
type Member struct {
	Name     string   `json:"name"`
	Host     string   `json:"host"`
	PeerURLs []string `json:"peerURLs"`
	Etcd     Etcd     `json:"etcd"` // one endpoint: this member's
	// Manifest is set where it runs as a static Pod; else it is the service Unit with its EnvFile.
	Manifest string `json:"manifest"`
	Unit     string `json:"unit"`
	EnvFile  string `json:"envFile"`
	DataDir  string `json:"dataDir"`
}

// GlusterFS is reached by a host, and there by a prefix such as oc exec.
type GlusterFS struct {
	Host   string   `json:"host"`
	Exec   []string `json:"exec"`
	Saved  string   `json:"saved"`  // file for the options that the volumes had
	Labels []string `json:"labels"` // that a person puts back on the nodes that were lost
	Usual  bool     `json:"usual"`  // volumes of which nothing was saved get type auto and count 3
}
