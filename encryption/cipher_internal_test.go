package encryption

import (
	"context"
	"errors"
	"testing"
)

// TestPanicIsContained: what panics in upstream's code is an error, also where no check of the shape comes before.
func TestPanicIsContained(t *testing.T) {
	tr, err := newTransformer(context.Background(), atom{Label: Label{Provider: AESCBC, Name: "key1"}, secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := tr.open(context.Background(), "/registry/secrets/a/b", make([]byte, 16)); !errors.Is(err, errPanic) || plain != nil {
		t.Errorf("%q, %v", plain, err)
	}
}
