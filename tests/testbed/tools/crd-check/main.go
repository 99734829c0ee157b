// Says what kube-apiserver of one Kubernetes release finds wrong with the definitions in the files that are its arguments:
// in the words of its own validation, which the pinned module k8s.io/apiextensions-apiserver is. Exits with 1 if that is
// anything.
package main

import (
	"context"
	"fmt"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"
)

func main() {
	wrong := 0
	for _, file := range os.Args[1:] {
		errors, err := check(file)
		if err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		for _, error := range errors {
			fmt.Printf("%s: %s\n", file, error)
		}
		wrong += len(errors)
	}
	if wrong > 0 {
		os.Exit(1)
	}
}

func check(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var definition v1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &definition); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	v1.SetDefaults_CustomResourceDefinition(&definition)
	v1.SetDefaults_CustomResourceDefinitionSpec(&definition.Spec)
	var internal apiextensions.CustomResourceDefinition
	if err := v1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&definition, &internal, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	// As the apiserver itself sets it for a new definition.
	for _, version := range internal.Spec.Versions {
		if version.Storage {
			internal.Status.StoredVersions = []string{version.Name}
		}
	}
	var errors []string
	for _, found := range validation.ValidateCustomResourceDefinition(context.Background(), &internal) {
		text := found.Error()
		// A rule that is refused is repeated as a whole.
		if len(text) > 700 {
			text = text[:300] + " ... " + text[len(text)-400:]
		}
		errors = append(errors, text)
	}
	return errors, nil
}
