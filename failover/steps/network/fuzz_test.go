package network

import (
	"strings"
	"testing"
)

const statAnswer = "# pxname,svname,qcur,status,\netcd,FRONTEND,,OPEN,\netcd,n1,0,no check,\n\"a,\"\"b\",FRONTEND,1,PAUSED,\n\n"

const serversAnswer = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n5 etcd 1 n1 127.0.0.1 2 0 1\n5 etcd 3 n3 127.0.0.1 0 5 1\n\n"

func TestParseAnswers(t *testing.T) {
	stat, err := parseStat(statAnswer)
	if err != nil || len(stat) != 3 || stat["etcd/FRONTEND"] != "OPEN" || stat[`a,"b/FRONTEND`] != "PAUSED" || stat["etcd/n1"] != "no check" {
		t.Errorf("got %v, %v", stat, err)
	}
	servers, err := parseServers(serversAnswer)
	if err != nil || len(servers) != 2 || servers["etcd/n1"] != ready || servers["etcd/n3"] != maint {
		t.Errorf("got %v, %v", servers, err)
	}
	for _, bad := range []string{"", "Unknown command\n", "# a,b\n1,2\n", "# pxname,svname,status\netcd,FRONTEND\n", "# pxname,svname,status\ne,FRONTEND,OPEN\ne,FRONTEND,OPEN\n", "# pxname,svname,status\n\"e,FRONTEND\n"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, bad := range []string{"", "2\n", "1\n# a b\n", strings.Replace(serversAnswer, "2 0 1", "2 x 1", 1), strings.Replace(serversAnswer, " 127.0.0.1 2 0 1", "", 1), serversAnswer + "5 etcd 1 n1 127.0.0.1 2 0 1\n"} {
		if _, err := parseServers(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	ids := parseSessions("0x55: proto=tcpv4 src=1.2.3.4:5 fe=etcd be=etcd srv=n1\n0x56: fe=etcd2 be=etcd\n0x57; drop: fe=etcd\n  nonsense fe=etcd\n", []string{"etcd"})
	if len(ids) != 1 || ids[0] != "0x55" {
		t.Errorf("got %v", ids)
	}
}

// FuzzStat: a frontend is what its line says, whatever is around it.
func FuzzStat(f *testing.F) {
	f.Add(statAnswer)
	f.Add("# pxname,svname,status\na,FRONTEND,OPEN")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseStat(text)
		if err != nil {
			return
		}
		for name, status := range all {
			if !strings.Contains(strings.ReplaceAll(text, `""`, `"`), status) || strings.Count(text, "\n") < len(all) {
				t.Errorf("%q has status %q, which is not in the answer", name, status)
			}
		}
	})
}

func FuzzServers(f *testing.F) {
	f.Add(serversAnswer)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseServers(text)
		if err != nil {
			return
		}
		for name, state := range all {
			backend, server, ok := strings.Cut(name, "/")
			if !ok || !strings.Contains(text, backend) || !strings.Contains(text, server) || state == "" {
				t.Errorf("%q: %q", name, state)
			}
		}
	})
}

func FuzzSessions(f *testing.F) {
	f.Add("0x55: fe=etcd be=etcd\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, id := range parseSessions(text, []string{"etcd"}) {
			if !strings.HasPrefix(id, "0x") || strings.ContainsAny(id, " ;\n") || !strings.Contains(text, id) {
				t.Errorf("%q would be sent to HAProxy", id)
			}
		}
	})
}
