{{/* Sets each missing value to its default, in place. Needed for `helm upgrade --reuse-values`, which passes only the values
that the older chart had, and for values that are set to null. Every template begins with this. */}}
{{- define "leasehold.defaults" -}}
{{- include "leasehold.fill" (dict "into" .Values "from" (.Files.Get "files/defaults.yaml" | fromYaml)) }}
{{- end }}

{{- define "leasehold.fill" -}}
{{- $into := .into }}
{{- /* Kubernetes objects and labels: each is one value, in which null removes an entry. */}}
{{- $whole := list "podSecurityContext" "securityContext" "resources" "livenessProbe" "readinessProbe" "labels" }}
{{- range $key, $default := .from }}
{{- if eq (toString (get $into $key | kindOf)) "invalid" }}
{{- $_ := set $into $key $default }}
{{- else if not (hasKey $into $key) }}
{{- $_ := set $into $key $default }}
{{- else if and (kindIs "map" $default) (not (has $key $whole)) }}
{{- include "leasehold.fill" (dict "into" (get $into $key) "from" $default) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of the application, in labels. */}}
{{- define "leasehold.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of the objects that the chart creates. */}}
{{- define "leasehold.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "leasehold.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "leasehold.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels that select the operator's pods. They cannot be changed after a release is installed. */}}
{{- define "leasehold.selector" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The labels that select the etcd for trying out leasehold. */}}
{{- define "leasehold.etcd.selector" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: etcd
{{- end }}

{{/* The labels that select the Job that removes keys after uninstalling. */}}
{{- define "leasehold.purge.selector" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: purge
{{- end }}

{{/* Labels without duplicates. `selector` names the template of the selector labels, `own` are the labels of this object,
and `firm` is true if a selector uses the object's labels. The user's labels override the chart's labels with the same key,
except the selector labels of a `firm` object. */}}
{{- define "leasehold.labels" -}}
{{- $root := .root }}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" ($root.Values.image.tag | default $root.Chart.AppVersion | trunc 63)
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "leasehold" }}
{{- $selecting := include (.selector | default "leasehold.selector") $root | fromYaml }}
{{- $all := list $labels $selecting $root.Values.commonLabels (.own | default dict) }}
{{- if .firm }}
{{- $all = append $all $selecting }}
{{- end }}
{{- $merged := dict }}
{{- range $all }}
{{- range $key, $value := . }}
{{- $_ := set $merged $key $value }}
{{- end }}
{{- end }}
{{- toYaml $merged }}
{{- end }}

{{/* The security context of pods. A platform that assigns user IDs to each namespace refuses a pod with another user: there,
the chart's default user and groups are omitted. */}}
{{- define "leasehold.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext }}
{{- $assigned := .Values.openshift }}
{{- if eq (toString $assigned) "auto" }}
{{- $assigned = .Capabilities.APIVersions.Has "security.openshift.io/v1" }}
{{- end }}
{{- if $assigned }}
{{- range list "runAsUser" "runAsGroup" "fsGroup" }}
{{- if eq (toString (get $context .)) "65532" }}
{{- $_ := unset $context . }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/* Metadata of an object. The argument is a dict: the chart's context, a suffix of the name, the object's own labels and
annotations, its namespace if that is not the release's, and `firm` if a selector uses the object's labels. */}}
{{- define "leasehold.metadata" -}}
{{- $root := .root -}}
name: {{ .name | default (printf "%s%s" (include "leasehold.fullname" $root) (.suffix | default "")) }}
{{- if not .cluster }}
namespace: {{ .namespace | default $root.Release.Namespace }}
{{- end }}
labels:
  {{- include "leasehold.labels" (dict "root" $root "selector" .selector "own" .labels "firm" .firm) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The Secret with the key that replicas use to authenticate each other. */}}
{{- define "leasehold.peers.secret" -}}
{{- .Values.peers.secret.name | default (printf "%s-peers" (include "leasehold.fullname" .)) }}
{{- end }}

{{- define "leasehold.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "leasehold.fullname" .) }}
{{- else }}
{{- required "serviceAccount.name: set the ServiceAccount of the operator, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "leasehold.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest }}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository $tag }}
{{- end }}
{{- end }}
