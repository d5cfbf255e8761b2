package main

const settingsHelp = `Each flag may also be an environment variable (UNDERSTUDY_ETCD_ENDPOINTS for --etcd-endpoints), which the flag overrules.
`

const exitHelp = `Exit codes:
  0    done; validate: the file is valid; audit: every value can be read; verify: the file is loaded
  1    audit: some values cannot be read; verify: the file is not loaded; relabel, rewrite: an apiserver is not ready for it
  2    bad usage, an unusable file, files that cannot be merged, an etcd that is unreachable or refuses the user
  130  interrupted
`

// details are what the help of a command says beside its flags.
var details = map[string]string{
	"validate": `The file is that of kube-apiserver's --encryption-provider-config. What kube-apiserver would refuse is an error, as is a second
document, which it would ignore, or a file that was cut off. What it accepts and operators regret is told as a notice.
With --output json, one object: hash is how kube-apiserver's metrics name the file; notices[] have code, field and text.
`,
	"merge": `The merged file reads what the apiservers of both clusters have written. It must not simply be installed everywhere:
encryption plan says in which order which file is to come to which apiserver.

Where both clusters have a key of one name with different secrets, no single file is right for aescbc. --clash
rename-standby gives the standby's key another name; the standby's values are relabelled in the course of the plan.
Or let the mirror transcode (mirror run --source-encryption-config, --target-encryption-config): then nothing is merged.
`,
	"plan": `Prints the phases in order: files to install, values to relabel, what to wait for, and what must be verified before the next
phase. With --dir it writes plan.json, without secrets, and for each phase the file that each cluster's apiservers get.
The files are those with which all apiservers of each cluster run now.
`,
	"verify": `Reads the metrics of one apiserver, such as from kubectl get --raw /metrics, asked directly and not through a load balancer.
Apiservers from 1.34 on tell the hash of their file; for older ones say with --installed when the file was put in place.
`,
	"audit": `Reads all values, in bounded memory, and counts them by resource, provider and key name. With --encryption-config it counts how
many of them an apiserver with that file reads, and lists those that it does not. Nothing is written.
With --output json, one object, as package encryption documents its AuditReport.
`,
	"relabel": `Gives the values of one key, which the file has under two names, the other name. What is encrypted stays as it is. A value that
another cluster's key of the old name has written is left alone. Each write compares the value's revision, and keeps its lease.

It refuses unless every apiserver of this etcd writes with another name than the old, and reads the new one: give the file of
each by --loaded, after encryption verify has shown that it runs with it. With --output json, one object, as package
encryption documents its InPlaceReport.
`,
	"rewrite": `Encrypts values with the first key of the file: those that another key has written, and those that are not encrypted though they
should be. Each write compares the value's revision, and keeps its lease. It refuses unless every apiserver of this etcd
writes with that key: give the file of each by --loaded, after encryption verify has shown that it runs with it.
`,
}
