package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/keyfilter"
)

// side is an EncryptionConfiguration with a codec.
type side struct {
	path  string
	codec *encryption.Codec
}

func newSide(t *testing.T, provider, letters string) side {
	t.Helper()
	key := base64.StdEncoding.EncodeToString([]byte((secret + strings.Repeat(letters, 32))[:32]))
	path := writeFile(t, letters+".yaml", fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - %s:\n      keys:\n      - name: key1\n        secret: %s\n  - identity: {}\n", provider, key))
	cfg, err := encryption.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resource, err := keyfilter.Resource("")
	if err != nil {
		t.Fatal(err)
	}
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(codec.Close)
	return side{path, codec}
}

func (s side) sealed(t *testing.T, key string) string {
	t.Helper()
	name := key[strings.LastIndexByte(key, '/')+1:]
	value, err := s.codec.Seal(context.Background(), key, []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"`+name+`"},"data":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

// TestCheckOpensBothSides: two clusters that share no key are equal if their plaintexts are; a repair encrypts with the target's key.
func TestCheckOpensBothSides(t *testing.T) {
	p := newPair(t)
	primary, standby := newSide(t, "aesgcm", "p"), newSide(t, "aescbc", "s")
	for i := range 3 {
		key := fmt.Sprintf("/registry/secrets/team-a/s%d", i)
		put(t, p.sourceC, key, primary.sealed(t, key))
		put(t, p.targetC, key, standby.sealed(t, key))
	}
	both := []string{"--name", "", "--source-encryption-config", primary.path, "--target-encryption-config", standby.path}
	invoke(t, p.args("check", both...)...).want(t, 0)
	invoke(t, p.args("check", "--name", "")...).want(t, 1) // as bytes they differ

	// One that the standby cannot read is told as that.
	const key = "/registry/secrets/team-a/s1"
	put(t, p.targetC, key, newSide(t, "aescbc", "x").sealed(t, key))
	invoke(t, p.args("check", both...)...).want(t, 1, "s1", "unreadable")
	// The target's configuration alone, where values are copied as they are.
	put(t, p.sourceC, key, string(values(t, p.targetC)[key]))
	invoke(t, p.args("check", "--name", "", "--target-encryption-config", standby.path)...).want(t, 1, "s1", "unreadable")

	invoke(t, p.args("check", "--source-encryption-config", primary.path)...).want(t, exitNoAnswer, "--source-encryption-config: does nothing alone")
	invoke(t, p.args("check", "--target-encryption-config", "/no/such")...).want(t, exitNoAnswer, "--target-encryption-config: ", "/no/such")
}
