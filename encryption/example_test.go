package encryption_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/keyfilter"
)

// file is what an example's apiserver runs with.
func file(key, secret string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - aescbc:\n      keys:\n      - name: " + key +
		"\n        secret: " + secret + "\n  - identity: {}\n"
}

func parse(text string) *encryption.Configuration {
	cfg, err := encryption.Parse([]byte(text))
	if err != nil {
		log.Fatal(err)
	}
	return cfg
}

var primaryFile, standbyFile = file("key1", secretText("the primary's")), file("key1", secretText("the standby's"))

func ExampleValidate() {
	cfg := parse(file("key1", "c2VjcmV0LXByaW1hcg=="))
	_, err := encryption.Validate(cfg)
	fmt.Println(strings.ReplaceAll(err.Error(), "; ", "\n"))
	// Output:
	// invalid EncryptionConfiguration: resources[0].providers[0].aescbc.keys[0].secret: the secret of key "key1" is 13 bytes long, and aescbc takes 16, 24 or 32
	// make one with: head -c 32 /dev/urandom | base64 -w 0
}

func ExampleMerge() {
	primary, standby := parse(primaryFile), parse(standbyFile)
	_, err := encryption.Merge(primary, standby, encryption.MergeOptions{})
	fmt.Println(strings.Split(err.Error(), "; ")[0])

	merged, err := encryption.Merge(primary, standby, encryption.MergeOptions{Clash: encryption.ClashRenameStandby})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range merged.Renames {
		fmt.Printf("%s %s -> %s\n", r.Provider, r.Old, r.New)
	}
	// Output:
	// key names clash: secrets: aescbc "key1" has different secrets in the two clusters
	// aescbc key1 -> key1-34d2c8ca
}

func ExamplePlanRollout() {
	plan, err := encryption.PlanRollout(encryption.RolloutConfig{
		Primary: encryption.Cluster{Config: parse(primaryFile), Apiservers: []encryption.Apiserver{{Name: "p1"}, {Name: "p2"}}},
		Standby: encryption.Cluster{Config: parse(standbyFile), Apiservers: []encryption.Apiserver{{Name: "s1"}, {Name: "s2"}}},
		Merge:   encryption.MergeOptions{Clash: encryption.ClashRenameStandby},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range plan.Phases {
		fmt.Printf("%s, %d files\n", p.Name, len(p.Files))
	}
	// Output:
	// stop-mirror, 0 files
	// alias-add, 2 files
	// alias-promote, 2 files
	// relabel, 0 files
	// audit, 0 files
	// compaction, 0 files
	// add, 4 files
	// start-mirror, 0 files
	// promote-standby, 2 files
}

func ExampleTranscoder() {
	resource, err := keyfilter.Resource("/registry")
	if err != nil {
		log.Fatal(err)
	}
	source, err := encryption.NewCodec(parse(primaryFile), encryption.CodecConfig{Resource: resource})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	target, err := encryption.NewCodec(parse(standbyFile), encryption.CodecConfig{Resource: resource})
	if err != nil {
		log.Fatal(err)
	}
	defer target.Close()
	transcoder, err := encryption.NewTranscoder(source, target)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	const key = "/registry/secrets/team-a/s"
	stored, err := source.Seal(ctx, key, []byte(`{"apiVersion":"v1","kind":"Secret"}`)) // by an apiserver of the primary
	if err != nil {
		log.Fatal(err)
	}
	_, err = target.Open(ctx, key, stored)
	fmt.Println("as it is:", strings.Split(err.Error(), ":")[0])
	value, err := transcoder.Transform(ctx, key, key, stored)
	if err != nil {
		log.Fatal(err)
	}
	plain, err := target.Open(ctx, key, value)
	fmt.Printf("transcoded: %s %v\n", plain, err)
	// Output:
	// as it is: unreadable
	// transcoded: {"apiVersion":"v1","kind":"Secret"} <nil>
}

func ExampleVerifyLoaded() {
	data := []byte(primaryFile)
	metrics := `process_start_time_seconds 1.7e+09
apiserver_encryption_config_controller_last_config_info{apiserver_id_hash="sha256:4e",hash="` + encryption.Hash(data) + `"} 1
`
	evidence, err := encryption.VerifyLoaded(strings.NewReader(metrics), encryption.LoadedFile{Hash: encryption.Hash(data)})
	fmt.Println(evidence, err)
	// Output: hash <nil>
}

func ExampleLabelOf() {
	fmt.Println(encryption.LabelOf([]byte("k8s:enc:aescbc:v1:key1:...")))
	fmt.Println(encryption.LabelOf([]byte("k8s:enc:kms:v2:vault:...")))
	fmt.Println(encryption.LabelOf([]byte("k8s\x00...")))
	// Output:
	// aescbc "key1"
	// kms:v2 "vault"
	// identity
}
