package encryption_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/encryption"
)

// leftOver lists what is in a directory besides one file.
func leftOver(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestInstall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enc.yaml")
	first, second := encode(t, config(t, "cbc a=A, identity")), encode(t, config(t, "cbc b=B, identity"))
	install := func(data []byte, replace bool) (bool, error) {
		return encryption.Install(path, data, encryption.InstallOptions{Replace: replace})
	}
	content := func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		return string(data)
	}
	if changed, err := install(first, false); err != nil || !changed || content() != string(first) {
		t.Fatalf("new: %v, %v", changed, err)
	}
	if changed, err := install(first, false); err != nil || changed {
		t.Errorf("again: %v, %v", changed, err)
	}
	if _, err := install(second, false); !errors.Is(err, encryption.ErrExists) || content() != string(first) {
		t.Errorf("another content: %v", err)
	}
	// Who has it open reads the old file to its end: it is replaced, not written over.
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if changed, err := install(second, true); err != nil || !changed || content() != string(second) {
		t.Fatalf("replaced: %v, %v", changed, err)
	}
	old := make([]byte, len(first))
	if _, err := open.Read(old); err != nil || string(old) != string(first) {
		t.Errorf("the old file was written over: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, err := install(second, false); err != nil || !changed || content() != string(second) {
		t.Errorf("with a wider mode: %v, %v", changed, err)
	}
	for name, data := range map[string]string{"no configuration": "x: y\n", "one that kube-apiserver refuses": strings.Replace(string(first), "secrets", "'*'", 1), "a cut one": string(first[:len(first)-5])} {
		_, err := install([]byte(data), true)
		if !errors.Is(err, encryption.ErrParse) && !errors.Is(err, encryption.ErrInvalid) || content() != string(second) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left := leftOver(t, path); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestInstallOwner: the file that replaces another has its owner. Only root can have it shown.
func TestInstallOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	path := filepath.Join(t.TempDir(), "enc.yaml")
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1234, 4321); err != nil {
		t.Fatal(err)
	}
	if _, err := encryption.Install(path, encode(t, config(t, "identity")), encryption.InstallOptions{Replace: true}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 1234 || s.Gid != 4321 || info.Mode().Perm() != 0o600 {
		t.Errorf("owner %d, group %d, mode %v", s.Uid, s.Gid, info.Mode())
	}
}

func TestInstallRefuses(t *testing.T) {
	dir := t.TempDir()
	data := encode(t, config(t, "identity"))
	real := filepath.Join(dir, "real.yaml")
	if err := os.WriteFile(real, []byte("real"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling.yaml")
	if err := os.Symlink(filepath.Join(dir, "nothing"), dangling); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]error{link: encryption.ErrExists, dangling: encryption.ErrExists, dir: encryption.ErrExists,
		filepath.Join(dir, "no", "such", "dir.yaml"): encryption.ErrFile, filepath.Join(real, "below.yaml"): encryption.ErrFile} {
		_, err := encryption.Install(path, data, encryption.InstallOptions{Replace: true})
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := encryption.Install(link, data, encryption.InstallOptions{Replace: true}); !strings.Contains(err.Error(), "is a symbolic link; give the path of the file that it leads to") {
		t.Errorf("the link: %v", err)
	}
	if text, err := os.ReadFile(real); err != nil || string(text) != "real" {
		t.Errorf("the link's file was changed: %v", err)
	}
	if left := leftOver(t, real); len(left) != 2 {
		t.Errorf("left over: %q", left)
	}
	// A directory behind a link is where Kubernetes tools keep files; it works.
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "d"), filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	if _, err := encryption.Install(filepath.Join(dir, "l", "enc.yaml"), data, encryption.InstallOptions{}); err != nil {
		t.Error(err)
	}
}

// TestInstallIsWhole: who reads the file while it is replaced reads one of the two.
func TestInstallIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enc.yaml")
	files := [][]byte{encode(t, config(t, "cbc a=A, identity")), encode(t, config(t, "secrets,configmaps: cbc b=B c=C d=D, identity"))}
	if _, err := encryption.Install(path, files[0], encryption.InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			data, err := os.ReadFile(path)
			if err != nil || string(data) != string(files[0]) && string(data) != string(files[1]) {
				t.Errorf("half a file: %v, %d bytes", err, len(data))
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 100 {
		if _, err := encryption.Install(path, files[(i+1)%2], encryption.InstallOptions{Replace: true}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	reader.Wait()
}
