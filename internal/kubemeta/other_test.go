package kubemeta_test

import (
	"testing"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

func TestOtherObject(t *testing.T) {
	a, b := []byte(`{"kind":"A","apiVersion":"v1","metadata":{"uid":"1"}}`), []byte(`{"kind":"A","apiVersion":"v1","metadata":{"uid":"2"}}`)
	for _, c := range []struct {
		a, b []byte
		want bool
	}{{a, b, true}, {a, a, false}, {a, []byte("no object"), false}, {[]byte("no object"), b, false}} {
		if got := kubemeta.OtherObject(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}
