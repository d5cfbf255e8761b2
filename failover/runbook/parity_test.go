package runbook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// certificate makes one for a domain with its key.
func certificate(t *testing.T, domain string, expires time.Time) Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain}, NotBefore: noon.Add(-time.Hour), NotAfter: expires}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Certificate{Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))}
}

var vips = []string{"10.0.0.10", "fd00::10"}

func installation(c Certificate) Installation {
	return Installation{PlatformAddress: "platform.example.com", OtherPlatformAddresses: []string{"https.example.com", "10.0.0.10"}, ClusterEndpoint: "10.0.0.10:6443", HTTPPort: 80, HTTPSPort: 443,
		Certificate: c, Registry: Registry{Platform: true, Address: "platform.example.com", Username: "puller", Password: "hunter2secret"},
		AdminUser: "admin@example.com", AdminPassword: "hunter2admin", Architectures: []string{"amd64"}, PackageArchitectures: []string{"amd64", "arm64"}, Components: []string{"knative-operator"}}
}

// Each rule is broken by itself: the field at fault is named, and no other.
func TestRulesOfAnInstallation(t *testing.T) {
	good := certificate(t, "platform.example.com", noon.AddDate(1, 0, 0))
	if f := CheckInstallation(installation(good), vips, noon); len(f) != 0 {
		t.Fatalf("a good one: %v", f)
	}
	other := certificate(t, "other.example.com", noon.AddDate(1, 0, 0))
	for _, tc := range []struct {
		field string
		spoil func(*Installation)
	}{
		{"PlatformAddress", func(i *Installation) { i.PlatformAddress, i.Registry.Address, i.Certificate = "", "", good }},
		{"ClusterEndpoint", func(i *Installation) { i.ClusterEndpoint = "platform.example.com" }},
		{"ClusterEndpoint", func(i *Installation) { i.ClusterEndpoint = "" }},
		{"OtherPlatformAddresses", func(i *Installation) { i.OtherPlatformAddresses = []string{"10.0.0.11"} }},
		{"HTTPPort", func(i *Installation) { i.HTTPPort = 8080 }},
		{"HTTPSPort", func(i *Installation) { i.HTTPSPort = 0 }},
		{"SelfBuiltVIP", func(i *Installation) { i.SelfBuiltVIP = true }},
		{"Certificate.SelfSigned", func(i *Installation) { i.Certificate.SelfSigned = true }},
		{"Certificate.Chain", func(i *Installation) { i.Certificate = other }},
		{"Certificate.Chain", func(i *Installation) { i.Certificate.Chain = nil }},
		{"Certificate.Chain", func(i *Installation) { i.Certificate = certificate(t, i.PlatformAddress, noon.Add(-time.Minute)) }},
		{"Certificate.Chain", func(i *Installation) { i.Certificate = certificate(t, i.PlatformAddress, noon.AddDate(0, 0, 20)) }},
		{"Certificate.Key", func(i *Installation) { i.Certificate.Key = other.Key }},
		{"Certificate.Key", func(i *Installation) { i.Certificate.Key = "" }},
		{"Registry.Username", func(i *Installation) { i.Registry.Username = "" }},
		{"Registry.Password", func(i *Installation) { i.Registry.Password = "" }},
		{"Registry.Address", func(i *Installation) { i.Registry.Address = "10.0.0.10" }},
		{"Registry.Address", func(i *Installation) { i.Registry = Registry{} }},
		{"AdminUser", func(i *Installation) { i.AdminUser = "" }},
		{"PackageArchitectures", func(i *Installation) { i.Architectures = []string{"amd64", "s390x"} }},
	} {
		in := installation(good)
		tc.spoil(&in)
		f := CheckInstallation(in, vips, noon)
		if len(f) != 1 || f[0].Field != tc.field || f[0].Hint == "" {
			t.Errorf("%s: %v", tc.field, f)
		}
		if text := fmt.Sprint(f); strings.Contains(text, "hunter2") || strings.Contains(text, "PRIVATE") {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	if f := CheckInstallation(installation(good), nil, noon); !slices.ContainsFunc(f, func(f Finding) bool { return f.Field == "VIP" }) {
		t.Errorf("without a virtual IP: %v", f)
	}
	for address, problem := range map[string]string{"10.0.0.10": "is an address", "[fd00::10]": "is an address", "platform": "is no domain", "https://platform.example.com": "is no domain", "a.b:443": "is no domain"} {
		in := installation(good)
		in.PlatformAddress, in.Registry.Address = address, address
		if f := CheckInstallation(in, vips, noon); len(f) == 0 || f[0].Field != "PlatformAddress" || !strings.Contains(f[0].Problem, problem) {
			t.Errorf("%s: %v", address, f)
		}
	}
	in := installation(good)
	in.ClusterEndpoint, in.OtherPlatformAddresses = "[fd00:0::10]:6443", []string{"fd00::0010"}
	if f := CheckInstallation(in, vips, noon); len(f) != 0 {
		t.Errorf("by IPv6: %v", f)
	}
}

func TestParityOfTwoInstallations(t *testing.T) {
	good := certificate(t, "platform.example.com", noon.AddDate(1, 0, 0))
	standby := func() Installation {
		in := installation(good)
		in.ClusterEndpoint, in.OtherPlatformAddresses = "10.0.0.20", []string{"10.0.0.20"}
		in.Certificate.Chain = append([]byte("a comment\n"), in.Certificate.Chain...)
		return in
	}
	if f := CheckParity(installation(good), standby()); len(f) != 0 {
		t.Fatalf("a good pair: %v", f)
	}
	for field, spoil := range map[string]func(*Installation){
		"PlatformAddress": func(i *Installation) { i.PlatformAddress = "standby.example.com" },
		"Certificate.Chain": func(i *Installation) {
			i.Certificate.Chain = certificate(t, "platform.example.com", noon.AddDate(1, 0, 0)).Chain
		},
		"Certificate.Key":        func(i *Installation) { i.Certificate.Key = "" },
		"Certificate.SelfSigned": func(i *Installation) { i.Certificate.SelfSigned = true },
		"Registry.Platform":      func(i *Installation) { i.Registry.Platform = false },
		"Registry.Address":       func(i *Installation) { i.Registry.Address = "other" },
		"Registry.Username":      func(i *Installation) { i.Registry.Username = "other" },
		"Registry.Password":      func(i *Installation) { i.Registry.Password = "hunter3" },
		"AdminUser":              func(i *Installation) { i.AdminUser = "other" },
		"AdminPassword":          func(i *Installation) { i.AdminPassword = "hunter3" },
		"HTTPPort":               func(i *Installation) { i.HTTPPort = 81 },
		"HTTPSPort":              func(i *Installation) { i.HTTPSPort = 81 },
		"Components":             func(i *Installation) { i.Components = nil },
		"ClusterEndpoint":        func(i *Installation) { i.ClusterEndpoint = "10.0.0.10:6443" },
	} {
		in := standby()
		spoil(&in)
		f := CheckParity(installation(good), in)
		if len(f) != 1 || f[0].Field != field {
			t.Errorf("%s: %v", field, f)
		}
		if strings.Contains(fmt.Sprint(f), "hunter") {
			t.Errorf("a secret is shown: %v", f)
		}
	}
}

// However an installation is printed, its secrets are not.
func TestSecretsAreNotShown(t *testing.T) {
	in := installation(certificate(t, "platform.example.com", noon))
	asJSON, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v", in), fmt.Sprintf("%+v", in), fmt.Sprintf("%#v", in), fmt.Sprintf("%q %x", in.AdminPassword, in.AdminPassword), string(asJSON)} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("a secret is shown: %.200s", text)
		}
	}
}
