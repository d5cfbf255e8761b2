// Package posture asks whether a standby cluster is fit to be mirrored into, before the first key is copied and again before a switch: what differs between the two clusters in a way that a mirror of etcd
// cannot put right, or that turns what it copies against the standby. Each Finding says what follows and what to do.
//
// A Checker reads; it changes nothing. It asks both API servers, and both etcds where it is given clients. What it cannot look at, for want of permission, of a client or of a primary that lives,
// is a finding of its own: an empty report says that everything was looked at.
//
// # Checks
//
//	controllers       kube-controller-manager and kube-scheduler run on the standby, or not: which posture it is, and what follows
//	service-cidr      the ranges of cluster IPs are the same
//	node-ports        the standby's range of node ports holds the primary's
//	service-accounts  tokens of one cluster are good at the other: issuer and signing keys
//	version           the standby's minor version is not lower
//	encryption        the standby reads the primary's encrypted values
//	revision          the standby's etcd is at a higher revision, or what it costs to raise it there
//	apiservices       mirrored APIServices have their service
//	webhooks          mirrored webhooks, those of conversions included, have their service
//	volumes           mirrored PersistentVolumes come with their claims
//	definitions       stored versions of custom resources are known to the definitions that the standby will have
//	root-ca           service account token Secrets name the CA of another cluster
//
// # Secrets
//
// No value of a Secret is read: the check that counts token Secrets asks for their metadata alone. Of signing keys only fingerprints are compared.
package posture
