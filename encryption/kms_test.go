package encryption_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"
	kmsservice "k8s.io/kms/pkg/service"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// kmsPlugin is a KMS plugin behind a real unix socket, for both versions of the API. Its keys are made of their IDs.
type kmsPlugin struct {
	socket string

	mu       sync.Mutex
	server   *grpc.Server
	keyID    string
	fail     error // of each decryption and encryption
	statuses int
}

func newKMS(t testing.TB) *kmsPlugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	k := &kmsPlugin{socket: filepath.Join(dir, "s"), keyID: "key-1"}
	k.start(t)
	t.Cleanup(func() {
		k.stop()
		os.RemoveAll(dir)
	})
	return k
}

func (k *kmsPlugin) start(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("unix", k.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	kmsv2.RegisterKeyManagementServiceServer(server, kmsservice.NewGRPCService(k.socket, time.Second, k))
	registerV1(server, k)
	k.mu.Lock()
	k.server = server
	k.mu.Unlock()
	go server.Serve(listener)
}

// stop ends the plugin, and its connections.
func (k *kmsPlugin) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.server != nil {
		k.server.Stop()
		k.server = nil
	}
}

func (k *kmsPlugin) failWith(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

// rotate gives the plugin another key; it still decrypts with the old ones.
func (k *kmsPlugin) rotate(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keyID = id
}

func (k *kmsPlugin) state() (keyID string, fail error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keyID, k.fail
}

func kek(id string) cipher.AEAD {
	sum := sha256.Sum256([]byte("kek " + id))
	block, _ := aes.NewCipher(sum[:])
	aead, _ := cipher.NewGCM(block)
	return aead
}

func wrap(id string, plain []byte) []byte {
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce)
	return kek(id).Seal(nonce, nonce, plain, nil)
}

func unwrap(id string, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 12 {
		return nil, status.Error(codes.InvalidArgument, "short, and "+secretA)
	}
	plain, err := kek(id).Open(nil, wrapped[:12], wrapped[12:], nil)
	if err != nil {
		return nil, status.Error(codes.Internal, "no key for it, and "+secretA)
	}
	return plain, nil
}

func (k *kmsPlugin) Status(context.Context) (*kmsservice.StatusResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.statuses++
	return &kmsservice.StatusResponse{Version: "v2", Healthz: "ok", KeyID: k.keyID}, nil
}

func (k *kmsPlugin) Encrypt(_ context.Context, _ string, data []byte) (*kmsservice.EncryptResponse, error) {
	id, fail := k.state()
	if fail != nil {
		return nil, fail
	}
	return &kmsservice.EncryptResponse{Ciphertext: wrap(id, data), KeyID: id}, nil
}

func (k *kmsPlugin) Decrypt(_ context.Context, _ string, req *kmsservice.DecryptRequest) ([]byte, error) {
	if _, fail := k.state(); fail != nil {
		return nil, fail
	}
	return unwrap(req.KeyID, req.Ciphertext)
}

const secretKey = "/registry/secrets/team-a/s"

var object = []byte("k8s\x00\x0a\x0c\x0a\x02v1\x12\x06Secret\x12\x04\x0a\x02\x0a\x00")

// TestKMSLikeTheLoader: what kube-apiserver writes through a plugin is read here, and the other way about, in both versions of the API.
func TestKMSLikeTheLoader(t *testing.T) {
	ctx := testutil.Context(t)
	plugin := newKMS(t)
	for _, version := range []string{"kms1", "kms2"} {
		cfg := config(t, "secrets: "+version+" vault@"+plugin.socket+", identity")
		codec, real := newCodec(t, cfg), loadReal(t, cfg)
		stored := real.seal(t, secretKey, object)
		if plain, err := codec.Open(ctx, secretKey, stored); err != nil || !bytes.Equal(plain, object) {
			t.Errorf("%s: what kube-apiserver wrote: %v", version, err)
		}
		if label := encryption.LabelOf(stored); label.Name != "vault" || label.Provider != "kms:v"+version[3:] {
			t.Errorf("%s: label %+v", version, label)
		}
		stored, err := codec.Seal(ctx, secretKey, object)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := real.open(secretKey, stored); err != nil || !bytes.Equal(plain, object) {
			t.Errorf("%s: what was written here: %v", version, err)
		}
		if _, err := codec.Open(ctx, secretKey+"2", stored); !errors.Is(err, encryption.ErrUnreadable) {
			t.Errorf("%s: under another key: %v", version, err)
		}
	}
}

// TestKMSRotation: a key that the plugin has replaced goes on being read.
func TestKMSRotation(t *testing.T) {
	ctx := testutil.Context(t)
	plugin := newKMS(t)
	codec := newCodec(t, config(t, "secrets: kms2 vault@"+plugin.socket))
	old, err := codec.Seal(ctx, secretKey, object)
	if err != nil {
		t.Fatal(err)
	}
	plugin.rotate("key-2")
	other := newCodec(t, config(t, "secrets: kms2 vault@"+plugin.socket))
	fresh, err := other.Seal(ctx, secretKey, object)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(old, []byte("key-1")) || !bytes.Contains(fresh, []byte("key-2")) {
		t.Error("the values do not name the plugin's keys")
	}
	for _, value := range [][]byte{old, fresh} {
		for _, c := range []*encryption.Codec{codec, other} {
			if plain, err := c.Open(ctx, secretKey, value); err != nil || !bytes.Equal(plain, object) {
				t.Error(err)
			}
		}
	}
	// For a minute the plugin is not asked for its key at each value.
	for range 10 {
		if _, err := codec.Seal(ctx, secretKey, object); err != nil {
			t.Fatal(err)
		}
	}
	plugin.mu.Lock()
	defer plugin.mu.Unlock()
	if plugin.statuses != 2 {
		t.Errorf("the plugin was asked for its status %d times", plugin.statuses)
	}
}

// TestKMSOutage: while a plugin is away nothing is called unreadable; who can wait goes on when it is back.
func TestKMSOutage(t *testing.T) {
	ctx := testutil.Context(t)
	plugin := newKMS(t)
	for _, version := range []string{"kms1", "kms2"} {
		cfg := config(t, "secrets: "+version+" vault@"+plugin.socket+", identity")
		cfg.Resources[0].Providers[0].KMS.Timeout.Duration = 100 * time.Millisecond
		stored := loadReal(t, cfg).seal(t, secretKey, object)
		plugin.stop()
		var log logBuffer
		resource := resourceFunc(t, "")
		codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(codec.Close)
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		_, err = codec.Open(short, secretKey, stored)
		cancel()
		if !errors.Is(err, encryption.ErrUnavailable) || errors.Is(err, encryption.ErrUnreadable) {
			t.Errorf("%s: without the plugin: %v", version, err)
		}
		got := make(chan error, 1)
		transcoder, err := encryption.NewTranscoder(codec, codec)
		if err != nil {
			t.Fatal(err)
		}
		log.grown(t, "waiting for a KMS plugin")
		go func() {
			_, err := transcoder.Transform(ctx, secretKey, secretKey+"2", stored)
			got <- err
		}()
		plugin.start(t)
		if err := <-got; err != nil {
			t.Errorf("%s: after the outage: %v", version, err)
		}
		wantSecret(t, "the log", log.String())
	}
}

// TestKMSRefusal: what a plugin says is not passed on.
func TestKMSRefusal(t *testing.T) {
	ctx := testutil.Context(t)
	plugin := newKMS(t)
	for _, version := range []string{"kms1", "kms2"} {
		cfg := config(t, "secrets: "+version+" vault@"+plugin.socket+", identity")
		stored := loadReal(t, cfg).seal(t, secretKey, object)
		plugin.failWith(fmt.Errorf("%w", status.Error(codes.PermissionDenied, secretA)))
		codec := newCodec(t, cfg)
		_, openErr := codec.Open(ctx, secretKey, stored)
		_, sealErr := codec.Seal(ctx, secretKey, object)
		for _, err := range []error{openErr, sealErr} {
			if !errors.Is(err, encryption.ErrUnreadable) || !strings.Contains(err.Error(), "PermissionDenied") {
				t.Errorf("%s: %v", version, err)
			}
			wantSecret(t, version, err.Error())
		}
		plugin.failWith(nil)
	}
}
