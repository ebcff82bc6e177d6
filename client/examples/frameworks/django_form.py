"""A Django form. Run it with a port, and `portway forward` with the same."""

import secrets
import sys
from wsgiref.simple_server import make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import path


def form(request):
    if request.method == "POST":
        return HttpResponse(f"<p id=answer>Hello {request.POST['name']}</p>")
    return HttpResponse(f"""
        <form method=post>
          <input type=hidden name=csrfmiddlewaretoken value={get_token(request)}>
          <input name=name> <button>Send</button>
        </form>""")


settings.configure(
    SECRET_KEY=secrets.token_urlsafe(50),
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    CSRF_COOKIE_SECURE=True,
)
urlpatterns = [path("", form)]
application = get_wsgi_application()


def https(environ, start_response):
    environ["wsgi.url_scheme"] = "https"
    return application(environ, start_response)


served = application
served = https  # the setting
make_server("127.0.0.1", int(sys.argv[1]), served).serve_forever()
