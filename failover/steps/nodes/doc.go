// Package nodes has steps that run commands and install files on machines, by ssh or on this one, and the Host that other steps act through.
//
//	host, err := nodes.NewSSH(nodes.SSHConfig{Address: "10.0.0.1", User: "ops", KeyFiles: []string{"/root/.ssh/id_ed25519"}})
//	…
//	defer host.Close()
//	steps, err := nodes.File(nodes.FileConfig{Hosts: []nodes.Host{host}, Path: "/etc/kubernetes/encryption-provider.conf", Content: file, Secret: true})
//
// # Hosts
//
// Local runs programs on this machine, SSH by ssh. Both give programs their arguments as they are: a shell on the way only ever sees quoted words. Both end a program, and what it started in
// its process group, when the context ends, and say whether they have seen it end.
//
// A program that ended gives a Result, with whatever status. Everything else is an *Error, and its kind tells what is known: it has not run (ErrUnreachable, the kinds about the host's key,
// ErrAuth, ErrSudo, ErrNotStarted), it was ended (ErrSignal, ErrCancelled), or nobody knows (ErrOutcomeUnknown), as when the connection was lost while it ran. A Host never runs a program twice.
//
// # Host keys
//
// The key of a host has to be in known_hosts: there is no way around it. A key that is not there (ErrHostKeyUnknown), one that differs from what is there (ErrHostKeyChanged) and one that is
// revoked there (ErrHostKeyRevoked) are told apart. The files are read again for each connection, so that a run can be resumed when a key was added.
//
// # What a machine needs
//
// A POSIX shell as the user's login shell and as /bin/sh. For Root, a user who is root or may use sudo without a password. For files: stat, sha256sum, mktemp and sync, as GNU coreutils and busybox have
// them. For static pods: crictl, and systemctl where the kubelet is restarted.
//
// # Secrets
//
// What programs print goes into the journal after a Masker has been over it. A file that is secret, and what programs get on their standard input, is described by its SHA-256: who
// reads the plan could find a short secret by trying, so such a file should hold keys, not passwords.
package nodes
