{{/* Sets each value that is not there to its default, in place. Needed with `helm upgrade --reuse-values`, which passes the
values that the older chart knew and no others, and for values that are set to null. Every template begins with this. */}}
{{- define "leasehold.defaults" -}}
{{- include "leasehold.fill" (dict "into" .Values "from" (.Files.Get "files/defaults.yaml" | fromYaml)) }}
{{- end }}

{{- define "leasehold.fill" -}}
{{- $into := .into }}
{{- /* Kubernetes' own objects and labels: a value of one piece, in which null takes something away. */}}
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

{{/* The name of what the chart creates. */}}
{{- define "leasehold.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "leasehold.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "leasehold.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels that select the operator's pods. They cannot be changed once a release stands. */}}
{{- define "leasehold.selector" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Those of the etcd to try it out with. */}}
{{- define "leasehold.etcd.selector" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: etcd
{{- end }}

{{/* Those of the Job that removes keys at the end. */}}
{{- define "leasehold.purge.selector" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: purge
{{- end }}

{{/* Labels, each once. `selector` names the template of those that select pods, `own` those of this object, `firm` says that
something selects by them. Of two with one key that of the user counts, but for those by which something is selected. */}}
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

{{/* The security context of pods. A platform that gives each namespace users of its own refuses a pod that names another:
there, the chart's default user and groups are left out. */}}
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

{{/* Metadata of an object: a dict of the chart's context, a suffix of the name, labels and annotations of its own, and its
namespace if that is not the release's; `firm` when the object is selected by its labels. */}}
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

{{/* The Secret with the key by which replicas trust each other. */}}
{{- define "leasehold.peers.secret" -}}
{{- .Values.peers.secret.name | default (printf "%s-peers" (include "leasehold.fullname" .)) }}
{{- end }}

{{- define "leasehold.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "leasehold.fullname" .) }}
{{- else }}
{{- required "serviceAccount.name: name the account that the operator is to run as, or set serviceAccount.create" .Values.serviceAccount.name }}
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
