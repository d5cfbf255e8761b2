package connect

import (
	"net"
	"strings"
	"testing"
)

func TestParseEndpoints(t *testing.T) {
	for list, want := range map[string]string{
		"127.0.0.1:2379": "127.0.0.1:2379",
		"http://Node-1:2379, https://10.0.0.2:02379/": "http://node-1:2379 https://10.0.0.2:2379",
		"[::1]:2379,https://[FE80::1%eth0]:2380":      "[::1]:2379 https://[fe80::1%eth0]:2380",
		"HTTPS://etcd.example.com:443":                "https://etcd.example.com:443",
	} {
		endpoints, err := ParseEndpoints(list)
		if err != nil {
			t.Errorf("%q: %v", list, err)
			continue
		}
		var got []string
		for _, e := range endpoints {
			got = append(got, e.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q is %q, want %q", list, got, want)
		}
	}
}

func TestBadEndpoints(t *testing.T) {
	for list, want := range map[string]string{
		"":                               "endpoint 1: it is empty",
		"a:1,,b:2":                       "endpoint 2: it is empty",
		"host":                           "has no port",
		"http://host":                    "has no port",
		"host:0":                         "port",
		"host:65536":                     "port",
		"host:etcd":                      "port",
		":2379":                          "has no host",
		"::1:2379":                       "brackets",
		"[fe80:zz]:2379":                 "no IPv6 address",
		"unix:///run/etcd":               "scheme",
		"ftp://host:1":                   "scheme",
		"http://host:2379/v3":            "more than a host and a port",
		"host:1,HOST:1":                  "listed twice",
		"http://root:" + secret + "@h:1": "holds a user",
		"h:1 g:2":                        "more than a host and a port",
	} {
		_, err := ParseEndpoints(list)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: got %v, want %q", list, err, want)
		}
	}
}

func TestParseListen(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080", ":8080": ":8080", "LocalHost:0": "localhost:0", "[::1]:8080": "[::1]:8080", "[::]:09": "[::]:9", "[FE80::1%eth0]:80": "[fe80::1%eth0]:80",
	} {
		if got, err := ParseListen(text); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"8080": "has no port", "": "has no port", "host": "has no port", "::1:8080": "brackets", "::1": "brackets", "[::1]": "has no port", "[fe80:zz]:1": "no IPv6 address",
		"h:http": "is not a number", "h:65536": "is not a number", "h:-1": "is not a number", "http://h:1": "more than a host and a port", "h:1/metrics": "more than", "h:1 g:2": "more than",
	} {
		if got, err := ParseListen(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %q, %v; want %q", text, got, err, want)
		}
	}
}

// What was parsed means the same when it is written and parsed again, and net takes it apart as this package does.
func FuzzParseEndpoints(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:2379", "http://a:1,https://[::1]:2", "a:1,,b", "[", "http://", "x://y:1", "[a]:1", "[::1%]:9", "a:+1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		endpoints, err := ParseEndpoints(list)
		if err != nil {
			return
		}
		var written []string
		for _, e := range endpoints {
			written = append(written, e.String())
			if host, port, err := net.SplitHostPort(e.Address); err != nil || host == "" || port == "" {
				t.Fatalf("%q: address %q: %v", list, e.Address, err)
			}
		}
		again, err := ParseEndpoints(strings.Join(written, ","))
		if err != nil || len(again) != len(endpoints) {
			t.Fatalf("%q was written as %q, which gives %v", list, written, err)
		}
		for i := range again {
			if again[i] != endpoints[i] {
				t.Fatalf("%q: %v became %v", list, endpoints[i], again[i])
			}
		}
	})
}
