package encryption

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/uuid"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmsservice "k8s.io/kms/pkg/service"
)

const (
	// statusInterval is how often a KMS v2 plugin is asked for its present key while there is something to write, and stateTTL how long the data key of before may be used
	// while it does not answer: kube-apiserver's values (server/options/encryptionconfig/config.go).
	statusInterval = time.Minute
	stateTTL       = 3 * time.Minute
	// restAfterOutage keeps a scan of many values from waiting for the same dead plugin at each of them.
	restAfterOutage = 2 * time.Second
)

// plugin is a KMS plugin behind its socket. It connects when it is first needed.
type plugin struct {
	kms *apiserverv1.KMSConfiguration
	ctx context.Context // ends the connection

	mu        sync.Mutex
	cipher    value.Transformer  // nil before the first call
	service   kmsservice.Service // of v2
	state     kmsv2.State        // of v2: the data key that writes
	checkedAt time.Time
	down      time.Time // no calls before
}

func newPlugin(ctx context.Context, kms *apiserverv1.KMSConfiguration) *plugin {
	return &plugin{kms: kms, ctx: ctx}
}

// connect makes what upstream calls an envelope transformer. Nothing is contacted: gRPC connects at the first call.
func (p *plugin) connect() (value.Transformer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.down) {
		return nil, p.unavailable("did not answer a moment ago")
	}
	if p.cipher != nil {
		return p.cipher, nil
	}
	timeout := p.kms.Timeout.Duration
	if p.kms.APIVersion == "v1" {
		service, err := envelope.NewGRPCService(p.ctx, p.kms.Endpoint, timeout)
		if err != nil {
			return nil, p.unavailable("cannot be called at its endpoint")
		}
		p.cipher = envelope.NewEnvelopeTransformer(service, int(*p.kms.CacheSize), baseOfKMSv1)
		return p.cipher, nil
	}
	service, err := kmsv2.NewGRPCService(p.ctx, p.kms.Endpoint, p.kms.Name, timeout)
	if err != nil {
		return nil, p.unavailable("cannot be called at its endpoint")
	}
	p.service = service
	p.cipher = kmsv2.NewEnvelopeTransformer(service, p.kms.Name, func() (kmsv2.State, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.state, nil
	}, "understudy")
	return p.cipher, nil
}

// baseOfKMSv1 encrypts the data below an envelope of v1: with aesgcm, and reads aescbc, which apiservers wrote before 1.25.
func baseOfKMSv1(block cipher.Block) (value.Transformer, error) {
	gcm, err := aestransformer.NewGCMTransformer(block)
	if err != nil {
		return nil, err
	}
	return gcmOrCBC{gcm, aestransformer.NewCBCTransformer(block)}, nil
}

type gcmOrCBC struct{ gcm, cbc value.Transformer }

func (u gcmOrCBC) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if plain, _, err := u.gcm.TransformFromStorage(ctx, data, dataCtx); err == nil {
		return plain, false, nil
	}
	return u.cbc.TransformFromStorage(ctx, data, dataCtx)
}

func (u gcmOrCBC) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return u.gcm.TransformToStorage(ctx, data, dataCtx)
}

func (p *plugin) open(ctx context.Context, key string, body []byte) ([]byte, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	plain, _, err := c.TransformFromStorage(ctx, body, value.DefaultContext(key))
	if err != nil {
		return nil, p.explain(ctx, err)
	}
	return plain, nil
}

func (p *plugin) seal(ctx context.Context, key string, plain []byte) ([]byte, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	if p.kms.APIVersion != "v1" {
		if err := p.refresh(ctx); err != nil {
			return nil, err
		}
	}
	body, err := c.TransformToStorage(ctx, plain, value.DefaultContext(key))
	if err != nil {
		return nil, p.explain(ctx, err)
	}
	return body, nil
}

// refresh keeps the data key that writes: it is made anew when the plugin's key has changed.
func (p *plugin) refresh(ctx context.Context) error {
	p.mu.Lock()
	state, checked := p.state, p.checkedAt
	p.mu.Unlock()
	now := time.Now()
	if state.Transformer != nil && now.Sub(checked) < statusInterval {
		return nil
	}
	next, err := p.nextState(ctx, state)
	if err != nil {
		if state.Transformer != nil && now.Before(state.ExpirationTimestamp) {
			return nil // as kube-apiserver does
		}
		return p.explain(ctx, err)
	}
	next.ExpirationTimestamp = now.Add(stateTTL)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.checkedAt = next, now
	return nil
}

func (p *plugin) nextState(ctx context.Context, state kmsv2.State) (kmsv2.State, error) {
	answer, err := p.service.Status(ctx)
	if err != nil {
		return state, err
	}
	if answer.Healthz != "ok" {
		return state, p.unavailable("says that it is not healthy")
	}
	if _, err := kmsv2.ValidateKeyID(answer.KeyID); err != nil {
		return state, p.unavailable("names no usable key")
	}
	if state.Transformer != nil && state.EncryptedObjectKeyID == answer.KeyID {
		return state, nil
	}
	uid := string(uuid.NewUUID())
	transformer, object, cacheKey, err := kmsv2.GenerateTransformer(ctx, uid, p.service, true)
	if err != nil {
		return state, err
	}
	if object.KeyID != answer.KeyID {
		return state, p.unavailable("changes its key at this moment")
	}
	return kmsv2.State{Transformer: transformer, EncryptedObjectKeyID: object.KeyID, EncryptedObjectEncryptedDEKSource: object.EncryptedDEKSource,
		EncryptedObjectAnnotations: object.Annotations, EncryptedObjectEncryptedDEKSourceType: object.EncryptedDEKSourceType,
		UID: uid, CacheKey: cacheKey, KMSProviderName: p.kms.Name}, nil
}

// explain tells a plugin that cannot be reached from one that refuses. What a plugin says is not passed on: it may say anything.
func (p *plugin) explain(ctx context.Context, err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	s, fromPlugin := status.FromError(err)
	down := !fromPlugin && strings.HasPrefix(err.Error(), "failed get version") // v1 hides the code
	if fromPlugin {
		switch s.Code() {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.ResourceExhausted:
			down = true
		}
	}
	switch {
	case down:
		if ctx.Err() == nil && p.ctx.Err() == nil {
			p.mu.Lock()
			p.down = time.Now().Add(restAfterOutage)
			p.mu.Unlock()
		}
		return p.unavailable("does not answer")
	case fromPlugin:
		return fmt.Errorf("the plugin refuses it (%v)", s.Code())
	}
	return errors.New("the data key that the plugin returns does not fit")
}

func (p *plugin) unavailable(detail string) error {
	return &Error{Kind: ErrUnavailable, Field: p.kms.Name, Detail: fmt.Sprintf("the plugin at %s %s", p.kms.Endpoint, detail), Hint: "see that it runs, and that this process may use its socket"}
}
