{{/* Kubernetes puts 11 characters behind the name of a StatefulSet, `-supernode` here, into a label of 63. */}}
{{- define "shoal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 42 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 42 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "shoal.selector" -}}
app.kubernetes.io/name: shoal
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "shoal.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "shoal.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "shoal.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "Set image.repository to where you have pushed the image of Shoal (docs/deployment/kubernetes.md)." $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What members know each other by, as /run/shoal/cluster has it. */}}
{{- define "shoal.cluster.secret" -}}
{{- .Values.cluster.existingSecret | default (printf "%s-cluster" (include "shoal.fullname" .)) -}}
{{- end -}}

{{- define "shoal.cluster.environment" -}}
{{- if .Values.cluster.certificates.peer -}}
- {name: SHOAL_CLUSTER__CERT_FILE, value: /run/shoal/cluster/tls.crt}
- {name: SHOAL_CLUSTER__KEY_FILE, value: /run/shoal/cluster/tls.key}
- {name: SHOAL_CLUSTER__CA_FILE, value: /run/shoal/cluster/ca.crt}
{{- else -}}
- {name: SHOAL_CLUSTER__SECRET_FILE, value: /run/shoal/cluster/secret}
{{- end -}}
{{- end -}}

{{- define "shoal.operator.secret" -}}
{{- .Values.operator.existingSecret | default (printf "%s-operator" (include "shoal.fullname" .)) -}}
{{- end -}}

{{/* The folder of the host with the runtime's configuration. */}}
{{- define "shoal.runtime.folder" -}}
{{- $folders := dict "containerd" "/etc/containerd" "k3s" "/etc/rancher" "rke2" "/etc/rancher" "crio" "/etc/containers" -}}
{{- get $folders .Values.runtime.name -}}
{{- end -}}

{{/* What every pod says of itself. */}}
{{- define "shoal.pod" -}}
serviceAccountName: {{ include "shoal.fullname" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "shoal.container" -}}
image: {{ include "shoal.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* What a container of Shoal may do, which is nothing. */}}
{{- define "shoal.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* For what has to be root on a node's own files, and nothing else. */}}
{{- define "shoal.root" -}}
runAsNonRoot: false
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* A path of the operations port of `root`. */}}
{{- define "shoal.probe" -}}
httpGet: {path: {{ .path }}, port: operations{{ if .root.Values.operator.certificate }}, scheme: HTTPS{{ end }}}
timeoutSeconds: 5
{{- end -}}
