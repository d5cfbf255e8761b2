// Package encryption brings two clusters' encryption at rest together, so that each cluster's apiservers can read what comes from the other's etcd, and no Secret is lost on the way.
//
// # Why
//
// A kube-apiserver reads a value of etcd with the keys of its --encryption-provider-config only. One value that it cannot read makes every list of the resource fail, and keeps an apiserver that
// restarts from becoming ready. So a mirror between two clusters needs one of two things:
//
//   - that the mirror transcodes: [Transcoder] decrypts with the source's configuration and encrypts with the target's. The clusters share no key, no file changes, and different providers,
//     names and --etcd-prefixes work. This is the first choice. It is for etcdmirror.Config.Transform and drcheck.Config.Transform; [Codec.Open] is for drcheck.Config.OpenSource and OpenTarget.
//   - that both clusters read both's values: [Merge] makes one configuration of two, and [PlanRollout] says in which order which file has to come to which apiserver. A mirror of bytes then asks
//     [Codec.Guard] whether the standby can read a value.
//
// Copying one cluster's keys into the other's file and restarting everything is neither. Where both have a key of one name with different secrets (key1, as most instructions call it), the
// values of one of them become unreadable; and with aescbc no file with both secrets under one name is right, because nothing authenticates a value: a wrong key takes one of 255 for its own,
// and returns garbage. Where the names differ, an apiserver that writes with a key before all others can read it breaks those.
//
// # Files
//
// [Parse] reads a file strictly, [Validate] applies upstream's rules, [Encode] writes one. The type is upstream's, k8s.io/apiserver/pkg/apis/apiserver/v1, under the name [Configuration]. [Install]
// puts a file in place as a whole. [VerifyLoaded] tells by an apiserver's metrics whether it runs with a file, of which [Hash] is the name there.
//
// # Values
//
// A [Codec] opens and seals values as an apiserver with one configuration does. The ciphers are upstream's; the search for the key follows upstream's (pkg/storage/value and
// pkg/server/options/encryptionconfig in k8s.io/apiserver 0.37; tests hold it against the real loader): providers of a resource in order, each key whose name fits, until one succeeds. It needs to know
// which resource a key of etcd is of: keyfilter.Resource tells it. KMS plugins, v1 and v2, are called over their sockets; while one does not answer, what needs it waits until its
// context ends, rather than call a value unreadable.
//
// [Audit] counts what is stored with which key, and how much of it a configuration reads. [Relabel] and [Rewrite] change values in place, each by a transaction that compares the value's mod_revision
// and keeps its lease; both refuse while an apiserver is not ready for it.
//
// # Roll-outs
//
// A [Rollout] is a list of phases as data; [Phase.Check] and [Phase.Do] act through the small interfaces of [Effects], so that a runner of plans can execute it, again after any interruption. Within a
// phase apiservers may have the old and the new file in any mixture. Between phases every one must have been verified: an apiserver that is left behind is what loses values.
//
// # Secrecy
//
// No error, notice, log line or report holds key material or anything of a stored value but its label: upstream's errors, some of which quote the configuration, are never passed on, and
// neither is what a KMS plugin says. What holds secrets says so: a Configuration (do not print one), what Encode returns, and [File].Data.
//
// # What it does not do
//
// It does not generate keys, does not talk to apiservers (give VerifyLoaded what /metrics serves), and does not restart them. It cannot tell that a YAML file was cut off between two lines. It knows one
// configuration for each etcd. It does not notice that a KMS plugin has changed its key: such values are not counted as stale. OpenShift's apiservers have a
// configuration each, for which Codecs of their own are needed.
//
// A program that transcodes:
//
//	resource, err := keyfilter.Resource("/registry")
//	...
//	primary, err := encryption.ParseFile("primary.yaml")
//	...
//	source, err := encryption.NewCodec(primary, encryption.CodecConfig{Resource: resource})
//	...
//	target, err := encryption.NewCodec(standby, encryption.CodecConfig{Resource: resource})
//	...
//	transcoder, err := encryption.NewTranscoder(source, target)
//	...
//	mirror, err := etcdmirror.New(sourceClient, targetClient, etcdmirror.Config{Name: "primary-to-standby", Transform: transcoder})
package encryption
