{{- define "inlay.name" -}}
{{- printf "%s" (ternary .Release.Name (printf "%s-inlay" .Release.Name) (contains "inlay" .Release.Name)) | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "inlay.selector" -}}
app.kubernetes.io/name: inlay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "inlay.labels" -}}
{{ include "inlay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "inlay.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "inlay.isStateful" -}}
{{- if .Values.cache.disk.size }}true{{ end -}}
{{- end -}}

{{- define "inlay.kind" -}}
{{- if include "inlay.isStateful" . }}StatefulSet{{ else }}Deployment{{ end -}}
{{- end -}}

{{- define "inlay.arguments" -}}
- serve
{{- range .Values.models }}
- {{ . | quote }}
{{- end }}
{{- $tiers := list -}}
{{- with .Values.cache.memory }}{{ $tiers = append $tiers (printf "memory://%s" .) }}{{ end -}}
{{- if .Values.cache.disk.size }}{{ $tiers = append $tiers "disk:///cache" }}{{ end -}}
{{- with .Values.cache.redis }}{{ $tiers = append $tiers . }}{{ end -}}
{{- range $tiers | default (list "none") }}
- --cache
- {{ . | quote }}
{{- end }}
- --shutdown-delay
- {{ .Values.shutdownDelay | quote }}
- --shutdown-timeout
- {{ .Values.shutdownTimeout | quote }}
{{- if .Values.keys.existingSecret }}
- --api-key-file
- {{ printf "/keys/%s" .Values.keys.file | quote }}
{{- end }}
{{- range .Values.arguments }}
- {{ . | quote }}
{{- end }}
{{- end -}}
