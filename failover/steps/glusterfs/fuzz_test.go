package glusterfs

import (
	"encoding/json"
	"maps"
	"testing"
)

// FuzzParseInfo: whatever gluster prints, what is accepted can be used as it is, as arguments of a command.
func FuzzParseInfo(f *testing.F) {
	f.Add("<cliOutput><opRet>0</opRet><volInfo><volumes><volume><name>x</name><options><option><name>cluster.quorum-count</name><value>3</value></option></options></volume></volumes></volInfo></cliOutput>")
	f.Add("<cliOutput><opRet>-1</opRet><opErrstr>no</opErrstr></cliOutput>")
	f.Add("<cliOutput><opRet>0</opRet><volList><count>1</count><volume>x</volume></volList></cliOutput>")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseInfo(text)
		if err == nil {
			for name, q := range all {
				if !volumeName.MatchString(name) || q.check() != nil {
					t.Errorf("accepted %q, %v", name, q)
				}
			}
		}
		if list, err := parseList(text); err == nil {
			for _, name := range list {
				if !volumeName.MatchString(name) {
					t.Errorf("accepted %q", name)
				}
			}
		}
	})
}

// FuzzParseExport: what is accepted comes back the same when it is written.
func FuzzParseExport(f *testing.F) {
	f.Add([]byte(`{"version":1,"volumes":{"a":{"type":"auto","count":"3"},"b":{}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseExport(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(exported{1, all})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseExport(text); err != nil || !maps.Equal(again, all) {
			t.Errorf("%s came back as %v, %v", text, again, err)
		}
	})
}
