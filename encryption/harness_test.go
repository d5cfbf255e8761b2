package encryption_test

import (
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) {
	// Upstream logs by klog, to the standard error; what it logs holds no secret either.
	var log logBuffer
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"}) // panics
	klog.SetOutput(&log)
	// kube-apiserver takes KMS v1 with this gate only.
	if err := utilfeature.DefaultMutableFeatureGate.Set("KMSv1=true"); err != nil {
		panic(err)
	}
	testutil.Main(checked{m, &log})
}

// checked runs the tests and looks through upstream's log.
type checked struct {
	m   *testing.M
	log *logBuffer
}

func (c checked) Run() int {
	code := c.m.Run()
	klog.Flush()
	for _, part := range secretParts {
		if strings.Contains(c.log.String(), part) {
			fmt.Fprintln(os.Stderr, "upstream's log shows a secret")
			return 1
		}
	}
	return code
}

// config writes a configuration in short: entries separated by ";", each resources and providers, such as "secrets,configmaps: cbc a=P n=N, gcm g=G, kms2 vault@sock, identity".
// The secret of a key is the SHA-256 of the letters behind "=".
func config(t testing.TB, text string) *encryption.Configuration {
	t.Helper()
	cfg := &encryption.Configuration{TypeMeta: metav1.TypeMeta{APIVersion: "apiserver.config.k8s.io/v1", Kind: "EncryptionConfiguration"}}
	for entry := range strings.SplitSeq(text, ";") {
		resources, providers, ok := strings.Cut(entry, ": ")
		if !ok {
			resources, providers = "secrets", entry
		}
		r := apiserverv1.ResourceConfiguration{Resources: strings.Split(strings.TrimSpace(resources), ",")}
		for provider := range strings.SplitSeq(providers, ",") {
			words := strings.Fields(provider)
			var keys []apiserverv1.Key
			for _, word := range words[1:] {
				name, secret, _ := strings.Cut(word, "=")
				keys = append(keys, apiserverv1.Key{Name: name, Secret: secretText(secret)})
			}
			p := apiserverv1.ProviderConfiguration{}
			switch words[0] {
			case "cbc":
				p.AESCBC = &apiserverv1.AESConfiguration{Keys: keys}
			case "gcm":
				p.AESGCM = &apiserverv1.AESConfiguration{Keys: keys}
			case "secretbox":
				p.Secretbox = &apiserverv1.SecretboxConfiguration{Keys: keys}
			case "kms1", "kms2":
				name, socket, _ := strings.Cut(words[1], "@")
				if socket == "" {
					socket = "/run/kms.sock"
				}
				p.KMS = &apiserverv1.KMSConfiguration{APIVersion: "v" + words[0][3:], Name: name, Endpoint: "unix://" + socket, Timeout: &metav1.Duration{Duration: 3 * time.Second}}
			case "identity":
				p.Identity = &apiserverv1.IdentityConfiguration{}
			default:
				t.Fatalf("no provider %q in %q", words[0], text)
			}
			r.Providers = append(r.Providers, p)
		}
		cfg.Resources = append(cfg.Resources, r)
	}
	return cfg
}

func secretText(letters string) string {
	sum := sha256.Sum256([]byte(letters))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// brief writes a configuration as the vectors do: "secrets [a b identity]; *.* [b]". Where kinds is set, keys have their provider in front.
func brief(cfg *encryption.Configuration, kinds bool) string {
	var entries []string
	for _, r := range cfg.Resources {
		var atoms []string
		add := func(kind string, keys []apiserverv1.Key) {
			for _, k := range keys {
				if kinds {
					atoms = append(atoms, kind+":"+k.Name)
				} else {
					atoms = append(atoms, k.Name)
				}
			}
		}
		for _, p := range r.Providers {
			switch {
			case p.AESCBC != nil:
				add("cbc", p.AESCBC.Keys)
			case p.AESGCM != nil:
				add("gcm", p.AESGCM.Keys)
			case p.Secretbox != nil:
				add("secretbox", p.Secretbox.Keys)
			case p.KMS != nil:
				atoms = append(atoms, p.KMS.Name)
			case p.Identity != nil:
				atoms = append(atoms, "identity")
			}
		}
		entries = append(entries, strings.Join(r.Resources, ",")+" ["+strings.Join(atoms, " ")+"]")
	}
	return strings.Join(entries, "; ")
}

// encode writes a configuration's file.
func encode(t testing.TB, cfg *encryption.Configuration) []byte {
	t.Helper()
	data, err := encryption.Encode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// number reads a setting of the tests.
func number(t testing.TB, name string) (uint64, bool) {
	s := os.Getenv(name)
	if s == "" {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s is %q: set it to a number", name, s)
	}
	return v, true
}

// schedules runs f with random seeds. UNDERSTUDY_SEED repeats one, UNDERSTUDY_SCHEDULES runs that many.
func schedules(t *testing.T, n int, f func(t *testing.T, seed uint64, rng *rand.Rand)) {
	if raceDetector {
		n = max(n/4, 1)
	}
	if v, ok := number(t, "UNDERSTUDY_SCHEDULES"); ok {
		n = int(v)
	}
	first, repeat := number(t, "UNDERSTUDY_SEED")
	if repeat {
		n = 1
	}
	for i := range n {
		seed := first
		if !repeat {
			seed = rand.Uint64()>>2 + uint64(i)
		}
		f(t, seed, rand.New(rand.NewPCG(seed, 1)))
		if t.Failed() {
			t.Fatalf("repeat with UNDERSTUDY_SEED=%d", seed)
		}
	}
}
