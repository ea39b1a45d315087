"""The HTTP filters of a listener: ours, the guard behind it, the router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    RetryPolicy,
)
from envoy_data_plane.envoy.config.rbac.v3 import (
    MetadataSource,
    Permission,
    Policy,
    Principal,
    RbacAction,
    SourcedMetadata,
)
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as RbacRules
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    BufferSettings,
    CheckSettings,
    ExtAuthz,
    ExtAuthzPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
    ExtProcOverrides,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from extproc.config import Settings
from extproc.config.settings import Listener
from extproc.render.clusters import PROCESSOR
from extproc.render.pieces import pack, seconds

EXT_PROC = "envoy.filters.http.ext_proc"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
GUARD = "envoy.filters.http.rbac"
NAMESPACE = "extproc"
"""The dynamic metadata we may write: session_id, decision_id, verdict."""

TARGET_KEY = "x-extproc-target"
LISTENER_KEY = "x-extproc-listener"
TARGET_EXTENSION = "extproc.target"

REQUEST_ATTRIBUTES = [
    "source.address",
    "connection.mtls",
    "connection.uri_san_peer_certificate",
    "xds.route_name",
]
"""The same for all requests of one connection and route: the processor remembers them by their bytes."""
CODE_DETAILS = "response.code_details"
"""Whether the upstream answered or Envoy did in its place."""


def http_filters(settings: Settings, listener: Listener) -> list[HttpFilter]:
    """In order: identify and decide, make sure that was done, route."""
    router = HttpFilter(
        name="envoy.filters.http.router", typed_config=pack(Router(suppress_envoy_headers=True))
    )
    if listener.mode == "ext_authz":
        return [HttpFilter(name=EXT_AUTHZ, typed_config=pack(_ext_authz(settings, listener))), router]
    return [
        HttpFilter(name=EXT_PROC, typed_config=pack(_ext_proc(settings, listener))),
        HttpFilter(name=GUARD, typed_config=pack(_guard())),
        router,
    ]


def route_config(listener: Listener, target: str) -> Mapping[str, Any]:
    """What names the target to us. It is written here and nowhere else, so there is exactly one."""
    if listener.mode == "ext_authz":
        named = CheckSettings(context_extensions={TARGET_EXTENSION: target})
        return {EXT_AUTHZ: pack(ExtAuthzPerRoute(check_settings=named))}
    overrides = ExtProcOverrides(grpc_initial_metadata=[HeaderValue(key=TARGET_KEY, value=target)])
    return {EXT_PROC: pack(ExtProcPerRoute(overrides=overrides))}


def _ext_proc(settings: Settings, listener: Listener) -> ExternalProcessor:
    """The base mode is the most any rule can need; overrides only lower it.

    An override outside the list is silently ignored by Envoy: from a base of NONE a body would pass uninspected,
    from BUFFERED it is only inspected without need.
    """
    trusted = settings.identity.trust.metadata
    return ExternalProcessor(
        stat_prefix="extproc",
        grpc_service=_processor(settings, listener),
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        message_timeout=seconds(settings.envoy.message_timeout),
        max_message_timeout=seconds(settings.limits.max_message_timeout),
        processing_mode=_mode(ProcessingModeBodySendMode.BUFFERED, ProcessingModeBodySendMode.BUFFERED),
        allow_mode_override=True,
        allowed_override_modes=[
            _mode(request, response)
            for request in (ProcessingModeBodySendMode.NONE, ProcessingModeBodySendMode.BUFFERED)
            # Event streams come piece by piece; whole or not at all are the other two.
            for response in ProcessingModeBodySendMode
            if response.name in ("NONE", "STREAMED", "BUFFERED")
        ],
        request_attributes=list(REQUEST_ATTRIBUTES),
        response_attributes=[CODE_DETAILS],
        mutation_rules=_mutations(),
        # A route chosen again after a credential was added could carry it elsewhere.
        route_cache_action=ExternalProcessorRouteCacheAction.RETAIN,
        metadata_options=MetadataOptions(
            forwarding_namespaces=MetadataOptionsMetadataNamespaces(
                untyped=[trusted.namespace] if trusted is not None else []
            ),
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[NAMESPACE]),
        ),
    )


def _ext_authz(settings: Settings, listener: Listener) -> ExtAuthz:
    """Allow, deny and hold only; responses are never seen."""
    trusted = settings.identity.trust.metadata
    longest = max(settings.target(route.target).limits.request_body for route in listener.routes)
    service = _processor(settings, listener)
    # Unlike ext_proc this one obeys the service's timeout, and a hold is simply a call that takes long.
    service.timeout = seconds(settings.limits.max_message_timeout)
    return ExtAuthz(
        stat_prefix="extproc",
        transport_api_version=ApiVersion.V3,
        grpc_service=service,
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        with_request_body=BufferSettings(
            max_request_bytes=longest, allow_partial_message=False, pack_as_bytes=True
        ),
        clear_route_cache=False,
        validate_mutations=True,
        include_peer_certificate=True,
        # Raw headers keep their order, repetitions and bytes; the plain map joins and cleans them.
        encode_raw_headers=True,
        metadata_context_namespaces=[trusted.namespace] if trusted is not None else [],
        decoder_header_mutation_rules=_mutations(),
    )


def _guard() -> Rbac:
    """Only what we answered "allow" goes on.

    If a stream ever ended before an answer, Envoy would pass the request uninspected; this filter turns that
    into a 403.
    """
    decided = SourcedMetadata(
        metadata_source=MetadataSource.DYNAMIC,
        metadata_matcher=MetadataMatcher(
            filter=NAMESPACE,
            path=[MetadataMatcherPathSegment(key="verdict")],
            value=ValueMatcher(string_match=StringMatcher(exact="allow")),
        ),
    )
    policy = Policy(permissions=[Permission(sourced_metadata=decided)], principals=[Principal(any=True)])
    return Rbac(rules=RbacRules(action=RbacAction.ALLOW, policies={"decided": policy}))


def _processor(settings: Settings, listener: Listener) -> GrpcService:
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(
            cluster_name=PROCESSOR, max_receive_message_length=settings.envoy.grpc_message_bytes
        ),
        initial_metadata=[HeaderValue(key=LISTENER_KEY, value=listener.name)],
        # Nothing was decided yet in either case, so a second worker may be asked. Here, not inside envoy_grpc,
        # where it has no effect.
        retry_policy=RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=3),
    )


def _mode(request: ProcessingModeBodySendMode, response: ProcessingModeBodySendMode) -> ProcessingMode:
    """Trailers come wherever the body before them does: a credential may be echoed there as well."""
    unseen = response is ProcessingModeBodySendMode.NONE
    return ProcessingMode(
        request_header_mode=ProcessingModeHeaderSendMode.SEND,
        response_header_mode=ProcessingModeHeaderSendMode.SEND,
        request_body_mode=request,
        response_body_mode=response,
        request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
        response_trailer_mode=ProcessingModeHeaderSendMode.SKIP
        if unseen
        else ProcessingModeHeaderSendMode.SEND,
    )


def _mutations() -> HeaderMutationRules:
    """We never route and never speak for Envoy; an attempt is an error, not a change that silently did not happen."""
    return HeaderMutationRules(
        allow_all_routing=False,
        allow_envoy=False,
        disallow_system=False,
        disallow_all=False,
        disallow_is_error=True,
    )
