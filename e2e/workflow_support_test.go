//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is what of a Forgejo workflow is looked at.
type workflow struct {
	Env  map[string]string
	Jobs map[string]struct {
		Steps []step
	}
}

type step struct {
	Name, Uses, Run string
	Env             map[string]string
}

func decodeYAML[T any](t *testing.T, content string) T {
	t.Helper()
	var value T
	if err := yaml.Unmarshal([]byte(content), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// runWorkflow does what a workflow's jobs do for a tag, with secrets, and checks that what
// they push is there. What a job builds by other means is there when it begins.
func (h *house) runWorkflow(file, tag string, secrets ...string) {
	t := h.t
	t.Helper()
	w := decodeYAML[workflow](t, exampleFile(t, "blumeops/forgejo/"+file))
	const commit = "4f9c2ab"
	expressions := []string{"${{ github.ref_name }}", tag, "${{ github.sha }}", commit}
	for _, secret := range secrets {
		name, value, _ := strings.Cut(secret, "=")
		expressions = append(expressions, "${{ secrets."+name+" }}", value)
	}
	expand := strings.NewReplacer(expressions...).Replace
	docker := startDockerWith(t, map[string]any{})
	builder := startBuildKit(t, h.port())
	for name, job := range w.Jobs {
		t.Run(name, func(t *testing.T) {
			runner := newHome(t)
			runner.allowUnsigned()
			runner.env = append(runner.env, "DOCKER_HOST=unix://"+docker.path("docker.sock"), "BUILDKIT_HOST=unix://"+builder.path("buildkit.sock"), "GITHUB_REPOSITORY=eblume/app")
			for _, variable := range h.home.env {
				if strings.HasPrefix(variable, "ACTIONS_") {
					runner.env = append(runner.env, variable)
				}
			}
			for name, value := range w.Env {
				runner.env = append(runner.env, name+"="+expand(value))
			}
			built := fileImage(t)
			built.writeLayout(t, runner.path("built"), "v1")
			runner.write("data", "content")
			runner.write("Dockerfile", "FROM scratch\nCOPY data /data\n")
			ran := 0
			for _, step := range job.Steps {
				switch {
				case step.Uses != "":
				case step.Name == "Build":
					runner.run(tool(t, "skopeo"), "copy", "oci:"+runner.path("built")+":v1", "docker-archive:"+runner.path("image.tar"))
				default:
					of := *runner
					for name, value := range step.Env {
						of.env = append(of.env, name+"="+expand(value))
					}
					of.run("/bin/bash", "-e", "-o", "pipefail", "-c", step.Run)
					ran++
				}
			}
			if ran == 0 {
				t.Error("no step was run")
			}
			pushed := tag + "-" + commit
			if name == "buildkit" {
				pushed += "-buildkit"
			}
			h.port().image("blumeops/hello", pushed)
		})
	}
	if len(w.Jobs) != 2 {
		t.Errorf("%d jobs, want one for skopeo and one for BuildKit", len(w.Jobs))
	}
}
