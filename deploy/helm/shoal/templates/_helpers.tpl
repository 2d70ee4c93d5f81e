{{- define "shoal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "shoal.selector" -}}
app.kubernetes.io/name: shoal
app.kubernetes.io/instance: {{ .Release.Name }}
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

{{- define "shoal.secrets.cluster" -}}
{{- .Values.cluster.existingSecret | default (printf "%s-cluster" (include "shoal.fullname" .)) -}}
{{- end -}}

{{- define "shoal.secrets.operator" -}}
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

{{- define "shoal.probe" -}}
httpGet: {path: {{ .path }}, port: operations}
timeoutSeconds: 5
{{- end -}}
