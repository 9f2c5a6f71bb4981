package consulexec_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// TestReadmeProgram pastes README's program into a module of its own, and runs it.
func TestReadmeProgram(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(readme), "```go\npackage main\n")
	program, _, ok := strings.Cut(program, "```")
	if !ok {
		t.Fatal("README.md has no program")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, from := range map[string]string{"go.mod": "go.mod", "go.sum": "go.sum"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if name == "go.mod" {
			module := "require github.com/consulexec/consulexec v0.0.0\nreplace github.com/consulexec/consulexec => " + root + "\n"
			data = []byte(strings.Replace(string(data), "module github.com/consulexec/consulexec\n", "module pasted\n"+module, 1))
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n"+program), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "pasted.exe")
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", binary, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	srv := exectest.NewServer(exectest.Node("web-1", exectest.Run(exectest.Answer("up 3 days\n", 0))))
	defer srv.Close()
	run := exec.CommandContext(t.Context(), binary)
	run.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+srv.URL)
	out, err := run.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"web-1", "up 3 days"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the program does not print %q:\n%s", want, out)
		}
	}
}

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"`)
	headingPattern = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestLinks checks that what the Markdown files link to is there.
func TestLinks(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range linkPattern.FindAllStringSubmatch(string(text), -1) {
			link := match[1] + match[2]
			if strings.Contains(link, "://") {
				continue
			}
			if err := resolve(path, link); err != nil {
				t.Errorf("%s links to %s: %v", path, link, err)
			}
		}
		return nil
	})
	if err != nil || files < 3 {
		t.Errorf("%d Markdown files, error %v", files, err)
	}
}

// resolve finds what a relative link in a file is to.
func resolve(file, link string) error {
	target, heading, _ := strings.Cut(link, "#")
	if target == "" {
		target = filepath.Base(file)
	}
	target = filepath.Join(filepath.Dir(file), filepath.FromSlash(target))
	if _, err := os.Stat(target); err != nil || heading == "" {
		return err
	}
	text, err := os.ReadFile(target)
	if err != nil {
		return err
	}
	for _, match := range headingPattern.FindAllStringSubmatch(string(text), -1) {
		kept := regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(strings.ToLower(match[1]), "")
		if strings.ReplaceAll(kept, " ", "-") == heading {
			return nil
		}
	}
	return fmt.Errorf("%s has no such heading", target)
}
