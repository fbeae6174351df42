{{- /* What runs: the six services, and each pool of inference as one more of that kind. root. As YAML. */ -}}
{{- define "gatehouse.components" -}}
items:
{{- range $name, $own := .Values.services }}
  - {name: {{ $name }}, kind: {{ $name }}, served: {{ ternary $.Values.models.served list (eq $name "inference") | toJson }}, own: {{ mergeOverwrite (deepCopy $.Values.defaults) (deepCopy $own) | toJson }}}
{{- end }}
{{- range $pool, $own := .Values.inferencePools }}
  - {name: inference-{{ $pool }}, kind: inference, served: {{ $own.served | toJson }}, own: {{ mergeOverwrite (deepCopy $.Values.defaults) (deepCopy $.Values.services.inference) (omit (deepCopy $own) "served") | toJson }}}
{{- end }}
{{- end }}

{{- /* Where a caller finds a service: root, caller, peer. The gateway knows all pools of inference and asks each
     what it serves; the others call the pool with the guard model, if there is one. */ -}}
{{- define "gatehouse.address" -}}
{{- $root := .root }}
{{- $port := (index $root.Values.services .peer).port }}
{{- $urls := list (printf "http://%s-%s:%v" $root.Release.Name .peer $port) }}
{{- if eq .peer "inference" }}
{{- range $pool, $own := $root.Values.inferencePools }}
{{- $url := printf "http://%s-inference-%s:%v" $root.Release.Name $pool $port }}
{{- if eq $.caller "gateway" }}{{ $urls = append $urls $url }}
{{- else if has "guard" $own.served }}{{ $urls = list $url }}{{ end }}
{{- end }}
{{- end }}
{{- join "," $urls }}
{{- end }}

{{- /* Labels that select: root, name. */ -}}
{{- define "gatehouse.selector" -}}
app.kubernetes.io/name: gatehouse
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- /* All labels of an object: root, name. */ -}}
{{- define "gatehouse.labels" -}}
{{ include "gatehouse.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: gatehouse
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- /* Image of a service: root, name, digest, suffix. */ -}}
{{- define "gatehouse.image" -}}
{{- $registry := ternary "" (printf "%s/" .root.Values.image.registry) (empty .root.Values.image.registry) -}}
{{- if .digest -}}
{{ printf "%sgatehouse-%s%s@%s" $registry .name (default "" .suffix) .digest }}
{{- else -}}
{{ printf "%sgatehouse-%s%s:%s" $registry .name (default "" .suffix) (default .root.Chart.AppVersion .root.Values.image.tag) }}
{{- end -}}
{{- end }}

{{- /* Restricted Pod Security of the pod. */ -}}
{{- define "gatehouse.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Restricted Pod Security of a container. */ -}}
{{- define "gatehouse.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "gatehouse.postgresSecret" -}}
{{- if .Values.postgres.existingSecret }}{{ .Values.postgres.existingSecret }}{{ else }}{{ .Release.Name }}-postgres{{ end -}}
{{- end }}

{{- define "gatehouse.redisSecret" -}}
{{- if .Values.redis.existingSecret }}{{ .Values.redis.existingSecret }}{{ else }}{{ .Release.Name }}-redis{{ end -}}
{{- end }}

{{- define "gatehouse.postgresEnv" -}}
- name: POSTGRES_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "gatehouse.postgresSecret" . }}
      key: {{ ternary .Values.postgres.key "url" (not (empty .Values.postgres.existingSecret)) }}
{{- end }}

{{- define "gatehouse.redisEnv" -}}
- name: REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "gatehouse.redisSecret" . }}
      key: {{ ternary .Values.redis.key "url" (not (empty .Values.redis.existingSecret)) }}
{{- end }}

{{- define "gatehouse.pepperEnv" -}}
- name: KEY_PEPPER
  valueFrom:
    secretKeyRef:
      name: {{ .Values.pepper.existingSecret }}
      key: {{ .Values.pepper.key }}
{{- end }}

{{- /* What every process reads; its digest is an annotation, so that a change restarts the pods. */ -}}
{{- define "gatehouse.settings" -}}
GATEHOUSE_ENV: {{ .Values.environment | quote }}
LOG_LEVEL: {{ .Values.logLevel | quote }}
LOG_FORMAT: json
KEYS_DIR: /keys
# preStop waits until load balancers have noticed; no second wait in the process.
DRAIN_S: "0"
{{- with .Values.traces.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
TRACE_RATIO: {{ $.Values.traces.ratio | quote }}
{{- else }}
OTEL_TRACES_EXPORTER: none
{{- end }}
{{- end }}

{{- /* Egress that every pod needs: names, and the stores. root, stores (list of ports). */ -}}
{{- define "gatehouse.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- if .root.Values.demo.enabled }}
  to:
    - podSelector:
        matchLabels: {{- include "gatehouse.selector" (dict "root" .root "name" "demo-postgres") | nindent 10 }}
    - podSelector:
        matchLabels: {{- include "gatehouse.selector" (dict "root" .root "name" "demo-redis") | nindent 10 }}
  {{- else if .root.Values.networkPolicy.storeCidrs }}
  to:
    {{- range .root.Values.networkPolicy.storeCidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  {{- end }}
{{- end }}
