;; The floor, with what else keywheel asks of Envoy for a request that passes, and still no work done:
;; a callback for the context, so that plugins which share a VM are told apart; one for the answer's
;; headers, where notices go; a clock; and all values of the header, where the floor looks at the first.
(module
  (import "env" "proxy_get_property"
    (func $get (param $path i32) (param $len i32) (param $data i32) (param $size i32) (result i32)))
  (import "env" "proxy_remove_header_map_value"
    (func $remove (param $map i32) (param $name i32) (param $len i32) (result i32)))
  (import "env" "proxy_replace_header_map_value"
    (func $replace (param $map i32) (param $name i32) (param $len i32) (param $data i32) (param $size i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param $clock i32) (param $precision i64) (param $time i32) (result i32)))

  (memory (export "memory") 1)
  (data (i32.const 16) "request\00headers\00x-api-key")
  (data (i32.const 48) "x-client-id")
  (data (i32.const 64) "acme")

  (func (export "proxy_abi_version_0_2_1"))

  (func (export "malloc") (param $size i32) (result i32)
    i32.const 1024)

  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32))

  ;; The monotonic clock goes to 8; the rest is as in the floor. The header's name is the path's end.
  (func (export "proxy_on_request_headers") (param $context i32) (param $headers i32) (param $end i32) (result i32)
    (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 8)))
    (drop (call $get (i32.const 16) (i32.const 25) (i32.const 0) (i32.const 4)))
    (drop (call $remove (i32.const 0) (i32.const 32) (i32.const 9)))
    (drop (call $replace (i32.const 0) (i32.const 48) (i32.const 11) (i32.const 64) (i32.const 4)))
    i32.const 0)

  (func (export "proxy_on_response_headers") (param $context i32) (param $headers i32) (param $end i32) (result i32)
    i32.const 0))
