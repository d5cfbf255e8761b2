package etcdcluster_test

func systemctlMain() int { return 2 }
