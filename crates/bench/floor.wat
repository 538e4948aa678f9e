;; The least that any wasm filter does which takes a credential out of a request and puts a client's
;; name in: three header hostcalls, no check, and no export that Envoy does not need. What keywheel
;; costs is judged against it.
(module
  (import "env" "proxy_get_header_map_value"
    (func $get (param $map i32) (param $name i32) (param $len i32) (param $data i32) (param $size i32) (result i32)))
  (import "env" "proxy_remove_header_map_value"
    (func $remove (param $map i32) (param $name i32) (param $len i32) (result i32)))
  (import "env" "proxy_replace_header_map_value"
    (func $replace (param $map i32) (param $name i32) (param $len i32) (param $data i32) (param $size i32) (result i32)))

  (memory (export "memory") 1)
  (data (i32.const 16) "x-api-key")
  (data (i32.const 32) "x-client-id")
  (data (i32.const 48) "acme")

  (func (export "proxy_abi_version_0_2_1"))

  ;; Envoy writes a header's value where this says. A request is done with it before the next one
  ;; asks, so one place serves all.
  (func (export "malloc") (param $size i32) (result i32)
    i32.const 1024)

  ;; Map 0 holds the request's headers; the value's address and length go to 0 and 4. The answer 0
  ;; is: continue.
  (func (export "proxy_on_request_headers") (param $context i32) (param $headers i32) (param $end i32) (result i32)
    (drop (call $get (i32.const 0) (i32.const 16) (i32.const 9) (i32.const 0) (i32.const 4)))
    (drop (call $remove (i32.const 0) (i32.const 16) (i32.const 9)))
    (drop (call $replace (i32.const 0) (i32.const 32) (i32.const 11) (i32.const 48) (i32.const 4)))
    i32.const 0))
