package encryption

import (
	"context"
	"crypto/aes"
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
)

// transformer is an atom that works.
type transformer struct {
	atom
	head   []byte // of the values
	scheme []byte // provider and version, as in the header
	cipher value.Transformer
	plugin *plugin // of KMS
}

func newTransformer(ctx context.Context, a atom) (*transformer, error) {
	t := &transformer{atom: a, head: []byte(a.prefix()), scheme: []byte(a.Provider)}
	unusable := &Error{Kind: ErrInvalid, Detail: fmt.Sprintf("%s has no usable secret", a), Hint: "see Validate"}
	switch a.Provider {
	case AESCBC, AESGCM:
		t.scheme = append(t.scheme, ":v1"...)
		block, err := aes.NewCipher(a.secret)
		if err != nil {
			return nil, unusable
		}
		if a.Provider == AESCBC {
			t.cipher = aestransformer.NewCBCTransformer(block)
		} else if t.cipher, err = aestransformer.NewGCMTransformer(block); err != nil {
			return nil, unusable
		}
	case Secretbox:
		t.scheme = append(t.scheme, ":v1"...)
		if len(a.secret) != 32 {
			return nil, unusable
		}
		t.cipher = secretbox.NewSecretboxTransformer([32]byte(a.secret))
	case KMSv1, KMSv2:
		t.plugin = newPlugin(ctx, a.kms)
	case Identity:
	default:
		return nil, unusable
	}
	return t, nil
}

var errPanic = errors.New("upstream's code panicked")

// open decrypts the body of a value. Its errors, but for those of plugins, are not to be shown.
func (t *transformer) open(ctx context.Context, key string, body []byte) (plain []byte, err error) {
	// Bodies on which aescbc panics are sorted out before (kubemeta.CheckBody). A watcher of kube-apiserver dies of one; here it must not.
	defer func() {
		if recover() != nil {
			plain, err = nil, errPanic
		}
	}()
	if t.plugin != nil {
		return t.plugin.open(ctx, key, body)
	}
	plain, _, err = t.cipher.TransformFromStorage(ctx, body, value.DefaultContext(key))
	return plain, err
}

// seal encrypts, header included.
func (t *transformer) seal(ctx context.Context, key string, plain []byte) (_ []byte, err error) {
	if t.isIdentity() {
		return plain, nil
	}
	var body []byte
	if t.plugin != nil {
		if body, err = t.plugin.seal(ctx, key, plain); err != nil {
			if errors.Is(err, ErrUnavailable) {
				return nil, err
			}
			return nil, &Error{Kind: ErrUnreadable, Detail: fmt.Sprintf("it cannot be encrypted with %s: %v", t, err), Hint: "see the plugin's log"}
		}
	} else if body, err = t.cipher.TransformToStorage(ctx, plain, value.DefaultContext(key)); err != nil {
		return nil, &Error{Kind: ErrUnreadable, Detail: fmt.Sprintf("it cannot be encrypted with %s", t), Hint: "the host has no random numbers"}
	}
	out := make([]byte, 0, len(t.head)+len(body))
	return append(append(out, t.head...), body...), nil
}
